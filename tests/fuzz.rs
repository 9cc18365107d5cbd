//! The fuzz targets on the stable compiler: every input of the committed corpora, and some thousands that are made of them
//! by a generator whose seed is fixed, so that what fails here fails again. libFuzzer goes much further.

#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::cell::Cell;
use std::path::Path;
use std::sync::Once;

thread_local! {
    /// Set by a panic of whatever task: those of the proxy would go unnoticed otherwise. All of a target is on one thread.
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Notes every panic from now on.
fn notice_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.set(true);
            before(panic);
        }));
    });
}

/// The inputs of a corpus, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Runs a target over its corpus and over so many inputs made of it.
fn smoke(name: &str, made: u32) {
    notice_panics();
    let (_, target) = targets::ALL.into_iter().find(|(found, _)| *found == name).unwrap();
    let corpus = corpus(name);
    assert!(corpus.len() >= 10, "{} inputs in the corpus of {name}", corpus.len());
    let check = |input: &[u8]| {
        let ended = std::panic::catch_unwind(|| target(input));
        assert!(ended.is_ok() && !PANICKED.get(), "on the input b\"{}\"", input.escape_ascii());
    };
    corpus.iter().for_each(|input| check(input));
    let mut random = fastrand::Rng::with_seed(0x67_72_61_64_75_61_6c);
    for _ in 0..made {
        let input = if random.bool() { mutated(&corpus, &mut random) } else { mixed(&corpus, &mut random) };
        check(&input);
    }
}

/// An input of the corpus with a few changes.
fn mutated(corpus: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut input = corpus[random.usize(..corpus.len())].clone();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..=input.len());
        let end = (at + random.usize(..24)).min(input.len());
        match random.u8(..7) {
            0 if at < input.len() => input[at] ^= 1 << random.u8(..8),
            1 if at < input.len() => input[at] = *random.choice(BYTES).unwrap(),
            2 => input.insert(at, *random.choice(BYTES).unwrap()),
            3 => drop(input.drain(at..end)),
            4 => {
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            5 => {
                let other = &corpus[random.usize(..corpus.len())];
                let from = random.usize(..=other.len());
                let until = (from + random.usize(..80)).min(other.len());
                input.splice(at..end, other[from..until].iter().copied());
            }
            _ => input.truncate(at.max(1)),
        }
    }
    input
}

/// An input of the corpus with whole lines of others, left out, or said twice: most of a text stays well-formed.
fn mixed(corpus: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let lines = |input: &[u8]| -> Vec<Vec<u8>> {
        input.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
    };
    let mut input = lines(&corpus[random.usize(..corpus.len())]);
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..=input.len());
        let other = lines(&corpus[random.usize(..corpus.len())]);
        match (random.u8(..3), input.get(at).cloned()) {
            (0, Some(line)) => input.insert(at, line),
            (1, Some(_)) => drop(input.remove(at)),
            _ => {}
        }
        if let Some(line) = random.choice(&other).cloned() {
            input.insert(at.min(input.len()), line);
        }
    }
    input.concat()
}

/// Bytes that mean something somewhere.
const BYTES: &[u8] = b"\0\t\n\r \"#%'()*+,-./0159:;<=>?@AZ[\\]^_`az{|}~\x7f\x80\xff";

#[test]
fn overrides() {
    smoke("overrides", 20_000);
}

#[test]
fn route() {
    smoke("route", 20_000);
}

#[test]
fn config() {
    smoke("config", 3_000);
}

#[test]
fn proxy_header() {
    smoke("proxy_header", 5_000);
}

#[test]
fn head() {
    smoke("head", 20_000);
}

#[test]
fn connection() {
    smoke("connection", 8_000);
}

#[test]
fn rules() {
    smoke("rules", 10_000);
}
