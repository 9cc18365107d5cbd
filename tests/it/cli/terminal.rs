//! A person at a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::stage::Place;
use crate::control::stage::eventually;

pub(crate) const UP: &str = "\x1b[A";
pub(crate) const DOWN: &str = "\x1b[B";
pub(crate) const ENTER: &str = "\r";
pub(crate) const CTRL_C: &str = "\x03";

/// A terminal in which the program runs.
pub(crate) struct Terminal {
    child: Child,
    keys: File,
    /// All that was written to it, and how much of that was read already.
    screen: Arc<Mutex<Vec<u8>>>,
    read: usize,
}

impl Terminal {
    /// The program with a terminal on all sides.
    pub(crate) fn run(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let control = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&control).unwrap();
        unlockpt(&control).unwrap();
        let name = ptsname(&control, Vec::new()).unwrap();
        let side = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let stream = || Stdio::from(side.try_clone().unwrap());
        let mut program = place.program(arguments);
        program.envs(variables.iter().copied()).env("TERM", "xterm");
        let child = program.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        drop((program, side));
        let keys = File::from(control);
        let (screen, mut reader) = (Arc::<Mutex<Vec<u8>>>::default(), keys.try_clone().unwrap());
        let its = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                its.lock().unwrap().extend(&bytes[..count]);
            }
        });
        Self { child, keys, screen, read: 0 }
    }

    /// All that was written, as text.
    pub(crate) fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits until words come that were not there when keys were pressed last.
    pub(crate) fn see(&mut self, words: &str) -> &mut Self {
        eventually(&format!("{words} in {:?}", self.screen()), || {
            let screen = self.screen.lock().unwrap();
            String::from_utf8_lossy(&screen[self.read..]).contains(words)
        });
        self
    }

    /// Presses keys.
    pub(crate) fn press(&mut self, keys: &str) -> &mut Self {
        self.read = self.screen.lock().unwrap().len();
        self.keys.write_all(keys.as_bytes()).unwrap();
        self
    }

    /// Waits for the end, and returns the exit code.
    pub(crate) fn end(&mut self) -> i32 {
        let mut status = None;
        eventually(&format!("the end of {:?}", self.screen()), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code().unwrap()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Presses a key until the program ends, as it may be looking away for a moment.
    pub(crate) fn press_until_the_end(&mut self, key: &str) -> i32 {
        let mut status = None;
        eventually("the end", || {
            let _ = self.keys.write_all(key.as_bytes());
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code().unwrap()
    }

    /// Whether the cursor was shown last, if it was hidden.
    pub(crate) fn shows_the_cursor(&self) -> bool {
        let screen = self.screen();
        screen
            .rfind("\x1b[?25l")
            .is_none_or(|hidden| screen.rfind("\x1b[?25h").is_some_and(|shown| shown > hidden))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait().map(drop));
    }
}
