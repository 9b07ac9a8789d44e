//! A server as a process of its own: so that killing it is what it is elsewhere, and what it holds
//! is not counted for the router.
//!
//! It tells its address, and then does what a line from its parent says: the number of a fault, or
//! `live`, which it answers with the number of its streams. When its parent is gone, so is it.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use llmserve_route::gateway::Gateway;

use crate::service::Service;

/// Serves at `address` until the parent is gone.
pub fn serve(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let service = Arc::<Service>::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(address))?;
    println!("{}", listener.local_addr()?);
    let app = Gateway::new(service.clone()).into_router();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            match line.parse() {
                Ok(fault) => service.fault.store(fault, Ordering::Relaxed),
                Err(_) => println!("{}", service.live.load(Ordering::SeqCst)),
            }
        }
        std::process::exit(0);
    });
    Ok(runtime.block_on(async move { axum::serve(listener, app).await })?)
}

/// The process, from its parent's side. Dropped, it is killed.
pub struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub address: SocketAddr,
}

impl Process {
    /// One that serves at `address`; with port 0, at one that is free.
    pub fn start(address: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--serve", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a server has no pipes".into());
        };
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let Ok(address) = line.trim().parse() else {
            // It ends by itself: the address is taken.
            child.wait()?;
            return Err(format!("no server could be started at {address}").into());
        };
        Ok(Self {
            child,
            stdin,
            stdout,
            address,
        })
    }

    /// From now on this is wrong with it.
    pub fn tell(&mut self, fault: u8) -> std::io::Result<()> {
        writeln!(self.stdin, "{fault}")
    }

    /// Streams that live there.
    pub fn live(&mut self) -> Result<usize, Box<dyn Error>> {
        writeln!(self.stdin, "live")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
