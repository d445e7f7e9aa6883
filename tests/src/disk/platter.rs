//! What a disk holds: what was synced, in the file of the image; what was not, in memory, sector by sector with
//! every state since the last sync. It knows nothing of mounts.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt};

/// What a disk writes whole: 4 KiB.
pub(super) const SECTOR: usize = 4_096;

/// States of one sector that are remembered between two syncs; of further ones only the latest counts.
const STATES: usize = 8;

type Sector = Vec<u8>;

/// What a power cut did to what was not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Sectors that were written and not synced.
    pub unsynced: usize,
    /// Those of them of which one of the unsynced states is on the disk nevertheless.
    pub kept: usize,
}

/// A disk with a volatile cache.
pub(super) struct Platter {
    image: File,
    bytes: u64,
    /// Every state of a sector since the last sync, the oldest first; never empty.
    held: BTreeMap<u64, Vec<Sector>>,
    /// After so many writes more the power ends, with this chance for what is held.
    armed: Option<(u32, f64)>,
    /// What the last power cut did; none while there is power.
    cut: Option<Cut>,
}

impl Platter {
    pub(super) fn new(image: File) -> io::Result<Self> {
        let bytes = image.metadata()?.len();
        Ok(Self { image, bytes, held: BTreeMap::new(), armed: None, cut: None })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads what was written last, synced or not.
    pub(super) fn read(&self, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        self.powered()?;
        let size = size.min(usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX));
        let mut found = Vec::with_capacity(size + SECTOR);
        let first = offset / SECTOR as u64;
        let within = usize::try_from(offset % SECTOR as u64).unwrap_or(0);
        for sector in first.. {
            if found.len() >= within + size {
                break;
            }
            found.extend_from_slice(&self.sector(sector)?);
        }
        Ok(found[within..within + size].to_vec())
    }

    /// Takes a write into memory.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.powered()?;
        let end = offset + bytes.len() as u64;
        if end > self.bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut at = offset;
        while at < end {
            let (number, within) = (at / SECTOR as u64, usize::try_from(at % SECTOR as u64).unwrap_or(0));
            let from = usize::try_from(at - offset).unwrap_or(usize::MAX);
            let length = (SECTOR - within).min(bytes.len() - from);
            let mut sector = self.sector(number)?;
            sector[within..within + length].copy_from_slice(&bytes[from..from + length]);
            let states = self.held.entry(number).or_default();
            if states.len() == STATES {
                states.pop();
            }
            states.push(sector);
            at += length as u64;
        }
        match &mut self.armed {
            Some((0, chance)) => {
                let chance = *chance;
                self.cut(chance)?;
                self.powered()
            }
            Some((writes, _)) => {
                *writes -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Makes everything that was written permanent.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.powered()?;
        for (number, states) in std::mem::take(&mut self.held) {
            if let Some(latest) = states.last() {
                self.image.write_all_at(latest, number * SECTOR as u64)?;
            }
        }
        Ok(())
    }

    /// Ends the power. Of every sector that was not synced, with this chance any one of the states that it had since
    /// the last sync is on the disk; else what was synced. From now on all that is asked fails.
    pub(super) fn cut(&mut self, chance: f64) -> io::Result<Cut> {
        let held = std::mem::take(&mut self.held);
        let mut cut = Cut { unsynced: held.len(), kept: 0 };
        for (number, states) in held {
            if fastrand::f64() < chance {
                self.image.write_all_at(&states[fastrand::usize(..states.len())], number * SECTOR as u64)?;
                cut.kept += 1;
            }
        }
        (self.armed, self.cut) = (None, Some(cut));
        Ok(cut)
    }

    /// Has the power end in the middle of what is written: in the write after so many others.
    pub(super) fn arm(&mut self, writes: u32, chance: f64) {
        self.armed = Some((writes, chance));
    }

    /// What the power cut did, once it has happened.
    pub(super) fn was_cut(&self) -> Option<Cut> {
        self.cut
    }

    pub(super) fn power_on(&mut self) {
        self.cut = None;
    }

    fn powered(&self) -> io::Result<()> {
        if self.cut.is_none() { Ok(()) } else { Err(io::Error::other("there is no power")) }
    }

    fn sector(&self, number: u64) -> io::Result<Sector> {
        if let Some(latest) = self.held.get(&number).and_then(|states| states.last()) {
            return Ok(latest.clone());
        }
        let mut sector = vec![0; SECTOR];
        self.image.read_exact_at(&mut sector, number * SECTOR as u64)?;
        Ok(sector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platter() -> Platter {
        let image = tempfile::tempfile().unwrap();
        image.set_len(16 * SECTOR as u64).unwrap();
        Platter::new(image).unwrap()
    }

    #[test]
    fn what_is_read_is_what_was_written_last() {
        let mut platter = platter();
        platter.write(4_000, &[1; 5_000]).unwrap();
        platter.sync().unwrap();
        platter.write(4_090, &[2; 10]).unwrap();
        let mut expect = vec![0; 65_536];
        expect[4_000..9_000].fill(1);
        expect[4_090..4_100].fill(2);
        assert_eq!(platter.read(0, 65_536).unwrap(), expect);
        assert_eq!(platter.read(4_095, 7).unwrap(), expect[4_095..4_102]);
        assert_eq!(platter.read(65_530, 100).unwrap(), expect[65_530..], "it ends where the disk ends");
        assert!(platter.write(65_530, &[0; 7]).is_err());
    }

    #[test]
    fn an_armed_disk_ends_in_the_middle_of_what_is_written() {
        let mut platter = platter();
        platter.arm(2, 0.0);
        platter.write(0, &[1]).unwrap();
        platter.sync().unwrap();
        platter.write(0, &[2]).unwrap();
        assert_eq!(platter.was_cut(), None);
        assert!(platter.write(SECTOR as u64, &[3]).is_err(), "nobody is told that it is written");
        assert_eq!(platter.was_cut(), Some(Cut { unsynced: 2, kept: 0 }));
        platter.power_on();
        assert_eq!(platter.read(0, 1).unwrap(), [1]);
        platter.write(0, &[4]).unwrap();
    }

    #[test]
    fn a_cut_keeps_what_was_synced_and_of_the_rest_what_it_likes() {
        for (chance, kept) in [(0.0, 0), (1.0, 2)] {
            let mut platter = platter();
            platter.write(0, &[1; 3 * SECTOR]).unwrap();
            platter.sync().unwrap();
            platter.write(SECTOR as u64, &[2; 2 * SECTOR]).unwrap();
            platter.write(SECTOR as u64, &[3; SECTOR]).unwrap();
            assert_eq!(platter.cut(chance).unwrap(), Cut { unsynced: 2, kept });
            assert!(platter.read(0, 1).is_err(), "there is no power");
            assert!(platter.write(0, &[0]).is_err());
            assert!(platter.sync().is_err());
            platter.power_on();
            let now = |at: usize| platter.read((at * SECTOR) as u64, 1).unwrap()[0];
            assert_eq!(now(0), 1);
            let (second, third) = (now(1), now(2));
            if kept == 0 {
                assert_eq!((second, third), (1, 1));
            } else {
                assert!([2, 3].contains(&second), "any state that it had: {second}");
                assert_eq!(third, 2);
            }
        }
    }
}
