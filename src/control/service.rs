//! What a process that `gradual run` started has besides its file: a program to start anew, sockets that were handed to it,
//! the process that it replaces, and a service manager.

use crate::config::Config;
use crate::control::systemd::{self, Notifier};
use crate::control::upgrade::Program;
use crate::control::upgrade::handover::{self, Inheritance, Predecessor};
use crate::proxy::Handed;

/// The surroundings of a run. The default has none: a proxy within another program.
#[derive(Debug, Default)]
pub struct Service {
    /// What an upgrade starts; `None`: an upgrade is refused.
    pub(crate) program: Option<Program>,
    /// Who is told that this process serves.
    pub(crate) predecessor: Option<Predecessor>,
    pub(crate) inheritance: Inheritance,
    pub(crate) notifier: Notifier,
}

impl Service {
    /// This process's own: sockets of systemd (`LISTEN_FDS`) or of the process that it replaces, and systemd's ear
    /// (`NOTIFY_SOCKET`). To be called once, before any thread is started: what is taken is gone.
    ///
    /// # Errors
    /// What the process before handed over is not understood, in a sentence.
    pub fn of_this_process() -> Result<Self, String> {
        let program = Program::of_this_process();
        let program = program.map_err(|error| tracing::warn!("upgrades are not possible: {error}")).ok();
        let handed = std::env::var_os(handover::VARIABLE).map(|_| handover::receive()).transpose();
        let handed = handed.map_err(|error| {
            format!("{} is set, but nothing can be taken over: {error}", handover::VARIABLE)
        })?;
        let (predecessor, mut inheritance) = handed.unzip();
        inheritance.get_or_insert_default().listeners.extend(systemd::sockets());
        let inheritance = inheritance.unwrap_or_default();
        Ok(Self { program, predecessor, inheritance, notifier: Notifier::of_this_process() })
    }
}

impl Inheritance {
    /// What the admin address and the listeners of a configuration go on with. A service manager does not say what its
    /// sockets are for: what is at the admin address, and at no listener's, is for that.
    pub(crate) fn split(self, config: &Config) -> (Option<Handed>, Vec<Handed>) {
        let (mut listeners, wanted) = (self.listeners, &config.admin.address.value);
        match self.admin {
            Some(admin) if admin.is_at(wanted) => return (Some(admin), listeners),
            other => listeners.extend(other),
        }
        let is_listed =
            |one: &Handed| config.listeners.iter().any(|listener| one.is_at(&listener.address.value));
        let is_admin = |one: &Handed| one.is_at(wanted) && one.sockets().len() == 1 && !is_listed(one);
        let at = listeners.iter().position(is_admin);
        (at.map(|at| listeners.remove(at)), listeners)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use super::*;

    fn handed() -> (String, Handed) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        (address, Handed::new(None, vec![socket.into()], false).unwrap())
    }

    fn config(listener: &str, admin: &str) -> Config {
        let text = format!(
            "[[listener]]\naddress = \"{listener}\"\n[admin]\naddress = \"{admin}\"\n[[worker]]\nname = \"w\"\n\
             [[worker.version]]\nid = \"v\"\nupstreams = [\"http://127.0.0.1:9\"]\n\
             [worker.deployment]\nversions = [{{ version_id = \"v\", percentage = 100 }}]\n"
        );
        crate::config::parse("gradual.toml", &text, Path::new("/")).unwrap().0
    }

    #[test]
    fn the_admin_address_goes_on_with_the_socket_at_it_and_listeners_with_all_others() {
        let ((one, first), (two, second)) = (handed(), handed());
        let inheritance = Inheritance { listeners: vec![first, second], ..Inheritance::default() };
        let (admin, listeners) = inheritance.split(&config(&one, &two));
        assert_eq!(admin.unwrap().actual().to_string(), two);
        assert_eq!(listeners.iter().map(|one| one.actual().to_string()).collect::<Vec<_>>(), [one]);
    }

    #[test]
    fn an_admin_socket_that_is_wanted_elsewhere_now_is_left_to_the_listeners() {
        let (address, admin) = handed();
        let inheritance = Inheritance { admin: Some(admin), ..Inheritance::default() };
        let (admin, listeners) = inheritance.split(&config(&address, "127.0.0.1:1"));
        assert!(admin.is_none() && listeners.len() == 1);
    }
}
