//! Power cuts at random moments while orders flow: the real binary on a real file system on a disk that loses what was
//! not synced. `BROLLY_POWER_CUTS` says how many cuts there are in all; they are spread over engines and file systems.

use std::time::Duration;

use brolly_tests::{
    disk::{Disk, FileSystem},
    flow::{self, Flow},
    orders,
    server::Server,
    skip,
};

use crate::crash::{BATCH, ORDERS, lives};

/// Power cuts that one disk lives through; further ones go to a new one.
const CUTS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn sled_on_ext4_loses_and_doubles_nothing() {
    check("sled", FileSystem::Ext4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sled_on_xfs_loses_and_doubles_nothing() {
    check("sled", FileSystem::Xfs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redb_on_ext4_loses_and_doubles_nothing() {
    check("redb", FileSystem::Ext4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redb_on_xfs_loses_and_doubles_nothing() {
    check("redb", FileSystem::Xfs).await;
}

async fn check(engine: &str, kind: FileSystem) {
    if let Err(why) = Disk::available(kind) {
        skip(&format!("power cuts of {engine} on {}", kind.name()), &why);
        return;
    }
    for cuts in lives("BROLLY_POWER_CUTS", 4, 4, CUTS) {
        live(engine, kind, cuts).await;
    }
}

async fn live(engine: &str, kind: FileSystem, cuts: usize) {
    let settings = [("BROLLY_STORE__ENGINE", engine)];
    let mut disk = Disk::start(kind);
    let data = disk.path().join("brolly");
    let mut server = Server::start_with(&data, &[], &settings).await;
    server.set_up_samples().await;
    let flow = Flow::of(&server, orders::multiplied(ORDERS * cuts), BATCH, Duration::ZERO);
    let mut unsynced = 0;
    for number in 1..=cuts {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(30..600))).await;
        // All of it, nothing of it, or anything between.
        let chance = [0.0, 1.0, fastrand::f64(), fastrand::f64()][fastrand::usize(..4)];
        let cut = disk.cut(fastrand::u32(..50), chance).await;
        // Sometimes the process sees the disk fail before it dies itself, and must not promise anything.
        tokio::time::sleep(Duration::from_millis([0, fastrand::u64(..300)][fastrand::usize(..2)])).await;
        server.kill().await;
        disk.power_on().await;
        server = Server::start_with(&data, &[], &settings).await;
        flow.follow(&server);
        unsynced += cut.unsynced;
        eprintln!("{engine} on {}: cut {number} of {cuts}: {cut:?}", kind.name());
    }
    assert!(unsynced > 0, "cuts that have nothing to lose show nothing");
    let orders = flow.finish(&server).await;
    flow::exact(&server, &orders).await;
    assert_eq!(server.terminate().await, Some(0));
}
