//! A server without a cluster.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{Client, SOON, eventually};

/// A server without a cluster, in a folder of its own.
pub struct PlainServer {
    child: Child,
    addr: String,
    _folder: TempDir,
}

impl PlainServer {
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let addr = port.expect("a free port");
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--port", &addr.port().to_string()])
            .arg("--dir")
            .arg(folder.path())
            .args(args)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let server = Self { child, addr: addr.to_string(), _folder: folder };
        eventually(SOON, || TcpStream::connect(&server.addr).is_ok());
        server
    }

    /// `127.0.0.1:port`
    pub fn addr(&self) -> &str {
        &self.addr
    }

    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(&*self.addr)
    }
}

impl Drop for PlainServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
