//! Diagnostics on standard error.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::color;

/// Sends events of the program's own life to standard error: what `GRADUAL_LOG` names, else `RUST_LOG`, else `info`.
pub(crate) fn start() {
    let said = ["GRADUAL_LOG", "RUST_LOG"].into_iter().find_map(|name| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        Some((name, text))
    });
    let (filter, mistake) = match &said {
        Some((name, text)) => match EnvFilter::try_new(text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new("info"), Some(format!("{name} is ignored: {error}"))),
        },
        None => (EnvFilter::new("info"), None),
    };
    let color = color(&io::stderr());
    // It fails only where a subscriber is set already: then that one gets the events.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color)
        .with_target(false)
        // Where standard error takes nothing, its own message about that would be a panic.
        .log_internal_errors(false)
        .with_writer(Clean { color })
        .try_init();
    if let Some(mistake) = mistake {
        tracing::warn!("{mistake}");
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!("{}", mistake_of_ours(panic.payload_as_str(), &place));
    }));
}

/// What is said of a panic, in one line: its message may hold anything that came over the network.
fn mistake_of_ours(message: Option<&str>, place: &str) -> String {
    let message = message.unwrap_or("no message").escape_debug();
    format!("panic at {place}: {message}; this is a mistake in gradual, please report it")
}

/// Standard error, as far as it takes anything, without control characters but line breaks and tabs: text from a file or the network must not steer
/// the terminal. With `color`, the escape sequences of the log itself pass; those in messages are made visible before
/// they get here.
#[derive(Clone, Copy, Debug)]
struct Clean {
    color: bool,
}

impl<'a> MakeWriter<'a> for Clean {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for Clean {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Serving does not depend on whether anybody listens.
        let _ = io::stderr().lock().write_all(&cleaned(bytes, self.color));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().lock().flush();
        Ok(())
    }
}

fn cleaned(bytes: &[u8], color: bool) -> Vec<u8> {
    let mut clean = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\n' | b'\t' => clean.push(byte),
            0x1b if color => clean.push(byte),
            byte if byte.is_ascii_control() => clean.extend(format!("\\x{byte:02x}").into_bytes()),
            byte => clean.push(byte),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_one_line_whatever_its_message_holds() {
        let line = mistake_of_ours(Some("no \"a\r\n\x1b[2J\u{9b}\""), "src/x.rs:1:2");
        assert!(line.starts_with(r#"panic at src/x.rs:1:2: no \"a\r\n\u{1b}[2J\u{9b}\"; "#), "{line}");
        assert!(!line.contains(char::is_control));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = b"a\r\x1b[2J\x07b\tc\n";
        assert_eq!(cleaned(text, false), b"a\\x0d\\x1b[2J\\x07b\tc\n");
        assert_eq!(cleaned(text, true), b"a\\x0d\x1b[2J\\x07b\tc\n");
    }
}
