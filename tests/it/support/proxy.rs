//! The data plane in this process, with a file's text.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use gradual::config::{self, Address, Config};
use gradual::diag::Diagnostic;
use gradual::export::access::AccessLog;
use gradual::metrics::{Gauges, Registry};
use gradual::proxy::{Services, Shards};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};

use super::{Answer, Connection, File, PATIENCE, Pipe};

/// A running proxy.
pub(crate) struct Proxy {
    shards: Shards,
    pub(crate) registry: Arc<Registry>,
    log: AccessLog,
    pub(crate) folder: TempDir,
}

/// Starts a proxy with a file.
pub(crate) async fn proxy(file: &File) -> Proxy {
    Proxy::start(tempfile::tempdir().unwrap(), &file.text()).await
}

fn parsed(text: &str, folder: &Path) -> Config {
    match config::parse("gradual.toml", text, folder) {
        Ok((config, _)) => config,
        Err(report) => panic!("{}", report.render(false)),
    }
}

impl Proxy {
    /// Starts a proxy whose file lies in a folder that may hold what it names already.
    pub(crate) async fn start(folder: TempDir, text: &str) -> Self {
        let config = parsed(text, folder.path());
        let log = AccessLog::open(&config.log.access.value).unwrap();
        let registry = Arc::new(Registry::default());
        let services = Services { registry: Arc::clone(&registry), log: log.clone() };
        let threads = config.server.threads.unwrap_or(NonZeroUsize::new(2).unwrap());
        let mut shards = Shards::start(threads, &services).unwrap();
        let prepared = shards.prepare(&config).await.unwrap();
        shards.commit(prepared).await;
        Self { shards, registry, log, folder }
    }

    /// Another file; the error has what is wrong with what it names.
    pub(crate) async fn reload(&mut self, file: &File) -> Result<(), Vec<Diagnostic>> {
        let config = parsed(&file.text(), self.folder.path());
        let prepared = self.shards.prepare(&config).await?;
        self.shards.commit(prepared).await;
        Ok(())
    }

    /// Where it listens.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.shards.addresses()
    }

    /// `host:port` of the first listener.
    pub(crate) fn authority(&self) -> String {
        self.addresses()[0].to_string()
    }

    /// A byte stream to the first listener.
    pub(crate) async fn pipe(&self) -> Pipe {
        self.pipe_to(0).await
    }

    /// A byte stream to any listener.
    pub(crate) async fn pipe_to(&self, listener: usize) -> Pipe {
        match &self.addresses()[listener] {
            Address::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
            Address::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
        }
    }

    /// A plain client of HTTP/1.1 that sends exact bytes.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::new(self.pipe().await)
    }

    /// A request of exact bytes on a connection of its own; the answer to a GET.
    pub(crate) async fn send(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut connection = self.connect().await;
        connection.send(request).await;
        connection.answer().await
    }

    /// A GET with these header lines besides `Host: shop.example`.
    pub(crate) async fn get_with(&self, target: &str, lines: &[&str]) -> Answer {
        let mut request = format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n");
        for line in lines {
            request.push_str(line);
            request.push_str("\r\n");
        }
        self.send(request + "\r\n").await
    }

    /// A plain GET.
    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.get_with(target, &[]).await
    }

    /// A sample of its metrics, by its name and labels; 0 where there is none.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = self.registry.render(&Gauges::default());
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Ends it in order; returns its metrics as text, and the lines of the access log at `access.log` in its folder.
    pub(crate) async fn records(self) -> (String, Vec<Value>) {
        let cut = self.shards.drain(PATIENCE).await;
        assert_eq!(cut, 0, "connections that did not end");
        self.log.flush(PATIENCE);
        let log = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        let lines = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (self.registry.render(&Gauges::default()), lines)
    }
}
