//! systemd: the sockets that it opens for a service (`sd_listen_fds(3)`), and what it is told of the service's state
//! (`sd_notify(3)`).

use std::os::fd::OwnedFd;

use listenfd::ListenFd;
use sd_notify::NotifyState;

use crate::proxy::Handed;

/// The listening sockets of `LISTEN_FDS`, by address; their files stay when the process ends. What no listener could be is
/// left alone, with a warning.
pub(crate) fn sockets() -> Vec<Handed> {
    let mut handed = ListenFd::from_env();
    let mut sockets: Vec<Handed> = Vec::new();
    for at in 0..handed.len() {
        let tcp = handed.take_tcp_listener(at).map(|socket| socket.map(OwnedFd::from));
        let socket = tcp.or_else(|_| handed.take_unix_listener(at).map(|socket| socket.map(OwnedFd::from)));
        let taken = socket.and_then(|socket| Handed::new(None, socket.into_iter().collect(), false));
        match taken {
            Ok(one) => match sockets.iter_mut().find(|other| other.actual() == one.actual()) {
                Some(other) => other.join(one),
                None => sockets.push(one),
            },
            Err(error) => tracing::warn!("number {at} of LISTEN_FDS is left alone: {error}"),
        }
    }
    sockets
}

/// Tells the service manager, where there is one.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    listens: bool,
}

impl Notifier {
    /// To whom `NOTIFY_SOCKET` leads.
    pub(crate) fn of_this_process() -> Self {
        Self { listens: std::env::var_os("NOTIFY_SOCKET").is_some_and(|name| !name.is_empty()) }
    }

    /// It serves; what, in a line.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
    }

    /// A reload has begun; [`Self::ready`] ends it.
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!("systemd is not told of the reload: {error}"),
        }
    }

    /// It is about to end.
    pub(crate) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    }

    /// Another process serves in its place. To be said by the process that systemd knows.
    pub(crate) fn replaced_by(&self, pid: u32, status: &str) {
        self.tell(&[NotifyState::MainPid(pid), NotifyState::Ready, NotifyState::Status(&line(status))]);
    }

    fn tell(&self, state: &[NotifyState<'_>]) {
        if self.listens
            && let Err(error) = sd_notify::notify(state)
        {
            tracing::warn!("systemd cannot be told: {error}");
        }
    }
}

/// Each line is a message of its own there: no text may begin one.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(line("a\nMAINPID=1\u{7f}b"), "a MAINPID=1 b");
    }
}
