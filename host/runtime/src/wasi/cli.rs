//! `wasi:cli`: what a program for a command line asks its system for. A handler has no arguments, no
//! environment, no input and no terminal; what it writes goes to the delivery's log.

use brolly_core::{Fault, LogLevel};
use bytes::Bytes;
use wasmtime::component::Resource;

use crate::{
    attempt::Guest,
    bindings::standard::wasi::cli::{
        environment, exit, stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr,
        terminal_stdin, terminal_stdout,
    },
    fault::Stop,
    wasi::io::{InputStream, OutputStream},
};

impl environment::Host for Guest {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

fn left(how: &str) -> wasmtime::Error {
    Stop::Fault(Fault::Trap(format!("the plugin left by itself ({how}); a handler returns its outcome")))
        .into()
}

impl exit::Host for Guest {
    fn exit(&mut self, status: Result<(), ()>) -> wasmtime::Result<()> {
        Err(left(if status.is_ok() { "exit" } else { "exit with an error" }))
    }

    fn exit_with_code(&mut self, code: u8) -> wasmtime::Result<()> {
        Err(left(&format!("exit with the code {code}")))
    }
}

impl stdin::Host for Guest {
    fn get_stdin(&mut self) -> wasmtime::Result<Resource<InputStream>> {
        self.handles().push(InputStream(Bytes::new()))
    }
}

impl stdout::Host for Guest {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<OutputStream>> {
        self.handles().push(OutputStream::Log(LogLevel::Info))
    }
}

impl stderr::Host for Guest {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<OutputStream>> {
        self.handles().push(OutputStream::Log(LogLevel::Warn))
    }
}

impl terminal_input::Host for Guest {}
impl terminal_output::Host for Guest {}

impl terminal_input::HostTerminalInput for Guest {
    fn drop(&mut self, this: Resource<terminal_input::TerminalInput>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}

impl terminal_output::HostTerminalOutput for Guest {
    fn drop(&mut self, this: Resource<terminal_output::TerminalOutput>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}

impl terminal_stdin::Host for Guest {
    fn get_terminal_stdin(&mut self) -> wasmtime::Result<Option<Resource<terminal_input::TerminalInput>>> {
        Ok(None)
    }
}

impl terminal_stdout::Host for Guest {
    fn get_terminal_stdout(&mut self) -> wasmtime::Result<Option<Resource<terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl terminal_stderr::Host for Guest {
    fn get_terminal_stderr(&mut self) -> wasmtime::Result<Option<Resource<terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}
