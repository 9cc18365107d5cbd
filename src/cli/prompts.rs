//! Questions to somebody at a terminal. Where nobody is, none of them is asked.

use std::io::{self, IsTerminal, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use dialoguer::console::{Term, truncate_str};
use dialoguer::theme::{ColorfulTheme, SimpleTheme, Theme};
use dialoguer::{Confirm, Input, MultiSelect};
use rustix::termios::{self, OptionalActions, Termios};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::failure::Failure;
use crate::cli::{color, complain};

/// How many versions the list shows at a time.
const PAGE: usize = 12;
/// How long the program may take to end after a signal.
const PATIENCE: Duration = Duration::from_secs(5);

/// Somebody at a terminal.
pub(crate) struct Person {
    theme: Box<dyn Theme>,
}

impl Person {
    /// Whoever is there to be asked: questions are written to standard error and answers read from standard input, and
    /// nobody is there unless both and standard output are terminals. A run of a CI system (`CI` is set) is nobody.
    pub(crate) fn present() -> Option<Self> {
        let terminals = io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal();
        let automatic = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
        if !terminals || automatic {
            return None;
        }
        leave_the_terminal_as_it_was();
        let theme: Box<dyn Theme> =
            if color(&io::stderr()) { Box::new(ColorfulTheme::default()) } else { Box::new(SimpleTheme) };
        Some(Self { theme })
    }

    /// A question whose answer is yes or no.
    pub(crate) fn confirm(&self, question: &str, default: bool) -> Result<bool, Failure> {
        let prompt = Confirm::with_theme(&*self.theme).with_prompt(question).default(default);
        prompt.interact().map_err(failed)
    }

    /// A line of text; asked again until `check` takes it. An empty one is the default.
    pub(crate) fn line<T>(
        &self,
        question: &str,
        default: &str,
        check: impl Fn(&str) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let valid = |text: &String| check(text).map(drop).map_err(|failure| failure.title().to_owned());
        let prompt = Input::<String>::with_theme(&*self.theme).with_prompt(question).allow_empty(true);
        let prompt = if default.is_empty() { prompt } else { prompt.default(default.to_owned()) };
        check(&prompt.validate_with(valid).interact_text().map_err(failed)?)
    }

    /// At least one of several, by their places; asked again while it is none.
    pub(crate) fn some_of(&self, question: &str, items: &[(String, bool)]) -> Result<Vec<usize>, Failure> {
        let width = usize::from(Term::stderr().size().1).saturating_sub(8).max(20);
        let shown =
            |(text, checked): &(String, bool)| (truncate_str(text, width, "…").into_owned(), *checked);
        loop {
            let prompt = MultiSelect::with_theme(&*self.theme).with_prompt(question).report(false);
            let prompt = prompt.items_checked(items.iter().map(shown)).max_length(PAGE);
            let chosen = prompt.interact().map_err(failed)?;
            if !chosen.is_empty() {
                return Ok(chosen);
            }
            self.tell("select at least 1 version: SPACE selects, ENTER goes on");
        }
    }

    /// Something that is no question.
    pub(crate) fn tell(&self, text: &str) {
        complain(&format!("{text}\n"));
    }
}

/// Nothing has been changed where a question gets no answer.
fn failed(error: dialoguer::Error) -> Failure {
    let dialoguer::Error::IO(error) = error;
    if error.kind() == io::ErrorKind::Interrupted {
        // The thread that watches for signals ends the program.
        std::thread::sleep(PATIENCE);
    }
    Failure::new("no-answer", format!("the terminal cannot be asked: {error}; nothing was changed"))
        .help("say everything in arguments, and `--yes`")
}

/// Whether the file may have been changed already.
static WRITING: AtomicBool = AtomicBool::new(false);

/// To be called before anything is written: who interrupts from here on is told so.
pub(crate) fn writing() {
    WRITING.store(true, Ordering::Relaxed);
}

/// Has signals that end the program put the terminal back first: a question hides the cursor and reads single keys.
fn leave_the_terminal_as_it_was() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let modes = termios::tcgetattr(io::stdin()).ok();
        let (ready, watching) = channel();
        let work = move || watch(modes.as_ref(), ready);
        // Where there is no thread to be had, signals end the program as they always do.
        let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(work);
        let _ = watching.recv();
    });
}

/// Waits for a signal and ends the program; `ready` is dropped or told once it does.
fn watch(modes: Option<&Termios>, ready: Sender<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    let number = runtime.block_on(async {
        let (int, term, hup) = (SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup());
        let (Ok(mut int), Ok(mut term), Ok(mut hup)) = (signal(int), signal(term), signal(hup)) else {
            return None;
        };
        drop(ready);
        // Whatever signal comes at a question, the library that reads keys raises SIGINT after it.
        tokio::select! {
            biased;
            _ = term.recv() => Some(15),
            _ = hup.recv() => Some(1),
            _ = int.recv() => Some(2),
        }
    });
    let Some(number) = number else { return };
    if let Some(modes) = modes {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, modes);
    }
    let said = if WRITING.load(Ordering::Relaxed) {
        "interrupted; the file may have been changed already: see `gradual deployments status`"
    } else {
        "interrupted; nothing was changed"
    };
    // The cursor is made visible, and what is said stands in a line of its own.
    let _ = io::stderr().write_all(format!("\x1b[?25h\n{said}\n").as_bytes());
    std::process::exit(128 + number);
}
