//! The text of a configuration file, from its parts.

use std::fmt::Write;

use super::Backend;

/// A file of one listener on any port and one worker, `shop`; versions have the tag `tag-` and their id.
#[derive(Clone, Default)]
pub(crate) struct File {
    top: String,
    address: Option<String>,
    listener: String,
    worker: String,
    tables: String,
    versions: Vec<Version>,
    end: String,
}

#[derive(Clone)]
struct Version {
    id: String,
    upstreams: Vec<String>,
    /// `None`: it is not in the deployment.
    percentage: Option<u32>,
    more: String,
}

/// A file without a version yet.
pub(crate) fn file() -> File {
    File::default()
}

impl File {
    /// A version at a backend.
    pub(crate) fn version(self, id: &str, backend: &Backend, percentage: u32) -> Self {
        self.version_at(id, &[backend.url()], percentage)
    }

    /// A version at any URLs.
    pub(crate) fn version_at(self, id: &str, urls: &[&str], percentage: u32) -> Self {
        self.listed(id, urls, Some(percentage))
    }

    /// A version at a backend that is not in the deployment.
    pub(crate) fn spare(self, id: &str, backend: &Backend) -> Self {
        self.listed(id, &[backend.url()], None)
    }

    fn listed(mut self, id: &str, urls: &[&str], percentage: Option<u32>) -> Self {
        let upstreams = urls.iter().map(|url| (*url).to_owned()).collect();
        self.versions.push(Version { id: id.to_owned(), upstreams, percentage, more: String::new() });
        self
    }

    /// More lines of the last version; replaces its tag.
    pub(crate) fn version_with(mut self, lines: &str) -> Self {
        self.versions.last_mut().unwrap().more = format!("{lines}\n");
        self
    }

    /// The listener's address instead of any port.
    pub(crate) fn address(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    /// More lines of the listener.
    pub(crate) fn listener(mut self, lines: &str) -> Self {
        writeln!(self.listener, "{lines}").unwrap();
        self
    }

    /// More lines of the worker.
    pub(crate) fn worker(mut self, lines: &str) -> Self {
        writeln!(self.worker, "{lines}").unwrap();
        self
    }

    /// Tables of the worker.
    pub(crate) fn worker_table(mut self, lines: &str) -> Self {
        writeln!(self.tables, "{lines}").unwrap();
        self
    }

    /// Tables before the listener.
    pub(crate) fn top(mut self, lines: &str) -> Self {
        writeln!(self.top, "{lines}").unwrap();
        self
    }

    /// Tables after the worker: further workers, listeners.
    pub(crate) fn end(mut self, lines: &str) -> Self {
        writeln!(self.end, "{lines}").unwrap();
        self
    }

    pub(crate) fn text(&self) -> String {
        let mut text = self.top.clone();
        let address = self.address.as_deref().unwrap_or("127.0.0.1:0");
        writeln!(text, "[[listener]]\naddress = \"{address}\"\n{}", self.listener).unwrap();
        writeln!(text, "[[worker]]\nname = \"shop\"\n{}", self.worker).unwrap();
        writeln!(text, "{}", self.tables).unwrap();
        for Version { id, upstreams, more, .. } in &self.versions {
            let tag = if more.is_empty() { format!("tag = \"tag-{id}\"\n") } else { more.clone() };
            let head = "[[worker.version]]";
            writeln!(text, "{head}\nid = \"{id}\"\nupstreams = {upstreams:?}\n{tag}").unwrap();
        }
        writeln!(text, "[worker.deployment]\nversions = [").unwrap();
        for Version { id, percentage, .. } in &self.versions {
            if let Some(percentage) = percentage {
                writeln!(text, "  {{ version_id = \"{id}\", percentage = {percentage} }},").unwrap();
            }
        }
        writeln!(text, "]\n{}", self.end).unwrap();
        text
    }
}
