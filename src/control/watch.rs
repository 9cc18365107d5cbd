//! `--watch`: a reload when the file's content changes.
//!
//! The path is looked at twice a second, through every symlink: so it does not matter whether an editor writes the file,
//! renames another over it, or a symlink somewhere on its way turns to another folder, as a Kubernetes volume does.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::control::reload::Inbox;
use crate::control::status::Status;

/// How often the path is looked at, and for how long a change must have been at rest.
const INTERVAL: Duration = Duration::from_millis(500);

/// The most that is read for a comparison: more than any file that is accepted.
const MOST: u64 = 4 * 1024 * 1024 + 1;

/// Asks for a reload whenever the file's bytes differ from what was read last. Runs until it is dropped.
pub(crate) async fn watch(status: Arc<Status>, inbox: Inbox) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut watcher = Watcher::default();
    loop {
        ticks.tick().await;
        let path = status.file();
        if watcher.tick(Stamp::of(path)) && differs(path, status.last_read().as_deref()) {
            inbox.notify("the file changed");
        }
    }
}

/// Which file stands at the path, and when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    // Differs also where a file became readable, which its time of modification does not show.
    changed: (i64, i64),
    size: u64,
}

impl Stamp {
    /// `None` where there is no file at the moment.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
        })
    }
}

/// Tells a change that has come to rest from one that is under way.
#[derive(Debug, Default)]
struct Watcher {
    seen: Option<Stamp>,
    moving: bool,
}

impl Watcher {
    /// Whether the file changed and has stayed as it is since the last tick. A file that is gone for a moment waits for
    /// its return.
    fn tick(&mut self, stamp: Option<Stamp>) -> bool {
        let Some(stamp) = stamp else { return false };
        let changed = self.seen != Some(stamp);
        let settled = self.moving && !changed;
        self.seen = Some(stamp);
        self.moving = changed;
        settled
    }
}

/// Whether the file's bytes are not `known`. A file that cannot be read does not differ: the next change tells.
fn differs(path: &Path, known: Option<&str>) -> bool {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut bytes));
    read.is_ok() && known.map(str::as_bytes) != Some(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(inode: u64, modified: i64) -> Option<Stamp> {
        Some(Stamp { device: 1, inode, modified: (modified, 0), changed: (0, 0), size: 10 })
    }

    #[test]
    fn a_change_counts_once_it_has_come_to_rest() {
        let mut watcher = Watcher::default();
        let ticks =
            [stamp(1, 1), stamp(1, 1), stamp(1, 1), stamp(1, 2), stamp(1, 3), stamp(1, 3), stamp(1, 3)];
        let settled: Vec<_> = ticks.into_iter().map(|stamp| watcher.tick(stamp)).collect();
        assert_eq!(settled, [false, true, false, false, false, true, false]);
    }

    #[test]
    fn a_file_that_is_gone_for_a_moment_is_awaited() {
        let mut watcher = Watcher::default();
        let ticks = [stamp(1, 1), stamp(1, 1), None, None, stamp(2, 1), None, stamp(2, 1), stamp(2, 1)];
        let settled: Vec<_> = ticks.into_iter().map(|stamp| watcher.tick(stamp)).collect();
        assert_eq!(settled, [false, true, false, false, false, false, true, false]);
    }
}
