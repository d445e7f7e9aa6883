//! One mode for each thing that a program may ask its system for.

use brolly_plugin::{Failure, log};
use wasip2::{
    cli, clocks, filesystem,
    http::{outgoing_handler, types},
    io, random, sockets,
};

/// Acts as `mode`.
pub(crate) fn run(mode: &str) -> Result<(), Failure> {
    match mode {
        "surroundings" => surroundings(),
        "print" => print(),
        "seed" => {
            let (one, other) = random::insecure_seed::insecure_seed();
            log::info!("{one:x} {other:x}");
        }
        "clock" => log::info!("{}", clocks::wall_clock::now().seconds),
        "sleep" => clocks::monotonic_clock::subscribe_duration(1).block(),
        "random" => log::info!("{}", random::random::get_random_u64()),
        "insecure" => log::info!("{}", random::insecure::get_insecure_random_u64()),
        "exit" => cli::exit::exit(Ok(())),
        "exit_code" => cli::exit::exit_with_code(7),
        "socket" => {
            drop(sockets::tcp_create_socket::create_tcp_socket(sockets::network::IpAddressFamily::Ipv4))
        }
        "lookup" => drop(sockets::instance_network::instance_network()),
        "http" => drop(send("example.com")?),
        "poll_nothing" => drop(io::poll::poll(&[])),
        "poll_unfinished" => poll_unfinished()?,
        "hoard" => hoard(),
        other => return Err(Failure::reject(format_args!("there is no mode {other:?}"))),
    }
    Ok(())
}

fn surroundings() {
    log::info!("environment {:?}", cli::environment::get_environment());
    log::info!("arguments {:?}", cli::environment::get_arguments());
    log::info!("folder {:?}", cli::environment::initial_cwd());
    let folders = filesystem::preopens::get_directories();
    log::info!("open folders {}", folders.len());
    for (folder, name) in folders {
        log::info!("{name} {}", folder.stat().is_ok());
    }
    log::info!("terminal {}", cli::terminal_stdout::get_terminal_stdout().is_some());
    let input = cli::stdin::get_stdin();
    log::info!("input {:?}", input.blocking_read(10).map_err(|error| error.to_string()));
}

fn print() {
    let (out, err) = (cli::stdout::get_stdout(), cli::stderr::get_stderr());
    for part in ["one\ntw", "o\n", "and the rest"] {
        out.blocking_write_and_flush(part.as_bytes()).ok();
        err.blocking_write_and_flush(b"!\n").ok();
    }
}

fn send(host: &str) -> Result<types::FutureIncomingResponse, Failure> {
    let request = types::OutgoingRequest::new(types::Fields::new());
    request.set_authority(Some(host)).map_err(|()| Failure::reject("the host"))?;
    outgoing_handler::handle(request, None).map_err(Failure::reject)
}

/// Waits for the answer to a request that it goes on writing.
fn poll_unfinished() -> Result<(), Failure> {
    let request = types::OutgoingRequest::new(types::Fields::new());
    request.set_authority(Some("example.com")).map_err(|()| Failure::reject("the host"))?;
    let body = request.body().map_err(|()| Failure::reject("the body"))?;
    let future = outgoing_handler::handle(request, None).map_err(Failure::reject)?;
    future.subscribe().block();
    drop(body);
    Ok(())
}

/// Holds on to more and more handles.
fn hoard() {
    let mut held = Vec::new();
    loop {
        held.push(types::Fields::new());
    }
}
