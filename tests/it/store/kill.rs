//! A writer that is killed at any moment.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use gradual::store::file::read;
use gradual::store::journal::{Entry, Journal};
use gradual::store::write::{lock, replace};

use super::{Guard, PATIENCE, names, process, told};

/// A text that tells whether it is whole.
fn text(number: usize) -> String {
    format!("{number}\n").repeat(20_000)
}

fn is_whole(text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    text.ends_with('\n') && text.lines().count() == 20_000 && text.lines().all(|line| line == first)
}

fn entry(number: usize) -> Entry {
    Entry {
        id: format!("d{number}"),
        time: "2026-11-22T05:00:00Z".to_owned(),
        worker: "a".to_owned(),
        created_on: None,
        author: None,
        source: None,
        message: Some("m".repeat(20_000)),
        versions: Vec::new(),
        ring: None,
        generation: 1,
    }
}

fn journal(folder: &Path) -> Journal {
    Journal::new(folder, "gradual")
}

fn number(entry: &Entry) -> usize {
    entry.id.strip_prefix('d').unwrap().parse().unwrap()
}

#[test]
#[ignore = "run by the test that kills it, in a process of its own"]
fn writes_for_ever() {
    let Some(folder) = told() else { return };
    let last = journal(&folder).read().unwrap().entries.last().map_or(0, number);
    println!("begins");
    for next in last + 1.. {
        let _lock = lock(&folder, "gradual", PATIENCE).unwrap();
        replace(&folder.join("gradual.toml"), &text(next)).unwrap();
        assert_eq!(journal(&folder).append(&[entry(next)]).unwrap(), 1);
        println!("turn");
    }
}

#[test]
fn a_writer_that_is_killed_leaves_the_old_file_or_the_new_one_and_a_journal_that_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gradual.toml");
    fs::write(&file, text(0)).unwrap();
    let mut last = 0;
    for kill in 0..60_usize {
        let mut child = Guard(process("store::kill::writes_for_ever", folder.path()).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("begins")), "it did not begin");
        let turns = lines.by_ref().filter(|line| line.as_ref().unwrap() == "turn").take(kill % 3).count();
        assert_eq!(turns, kill % 3, "it ended by itself");
        // Spread over one more turn, which takes some milliseconds.
        std::thread::sleep(Duration::from_micros(kill as u64 * 7919 % 9000));
        drop(child);
        let found = read(&file).unwrap();
        assert!(is_whole(&found), "neither the old nor the new text: {} bytes", found.len());
        let known = journal(folder.path()).read().unwrap();
        assert!(known.entries.iter().map(number).is_sorted_by(|a, b| a + 1 == *b), "entries are missing");
        let newest = known.entries.last().map_or(0, number);
        let written: usize = found.lines().next().unwrap().parse().unwrap();
        assert!(newest >= last, "an entry was lost: {newest} after {last}");
        assert!(written == newest || written == newest + 1, "{written} is written, {newest} noted");
        assert!(names(folder.path()).len() <= 7, "leftovers pile up: {:?}", names(folder.path()));
        last = newest;
    }
    assert!(last >= 60, "the writer hardly got anywhere: {last}");
}
