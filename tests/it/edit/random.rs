//! Files of every form, edited: the meaning changes as asked, and of the text nothing else does.

use gradual::config::edit::{NewDeployment, NewVersion, add_version, set_deployment};
use gradual::model::deployment::Deployment;
use gradual::model::name::{Tag, VersionId};
use gradual::model::ring::Ring;
use gradual::model::share::Share;
use proptest::prelude::*;

use super::{config, id, name};

/// Decisions, one after the other; when they run out, always the first.
struct Tape<'a>(std::slice::Iter<'a, u8>);

impl Tape<'_> {
    fn choose(&mut self, of: usize) -> usize {
        usize::from(*self.0.next().unwrap_or(&0)) % of
    }

    fn yes(&mut self) -> bool {
        self.choose(2) == 1
    }
}

const WORKERS: [&str; 3] = ["a", "b", "c"];
const VERSIONS: [&str; 4] = ["v1", "v2", "v3", "v4"];
const TEXTS: [&str; 5] =
    ["\"x # no\"", "'y \" # no'", "\"\"\"\nz \\\" # no\n# no \"\" \"\"\"", "'''\n# no '\n'''", "\"\\\\\""];

/// A file that is being written.
struct Writer<'a> {
    tape: Tape<'a>,
    text: String,
    comments: usize,
}

impl Writer<'_> {
    fn comment(&mut self) -> String {
        self.comments += 1;
        format!("# c{}.", self.comments)
    }

    /// A line's end, with or without a comment.
    fn end(&mut self) -> String {
        if self.tape.yes() { format!(" {}\n", self.comment()) } else { "\n".to_owned() }
    }

    /// Blank lines and comments.
    fn above(&mut self, indent: &str) -> String {
        match self.tape.choose(4) {
            0 | 1 => String::new(),
            2 => "\n".to_owned(),
            _ => format!("\n{indent}{}\n", self.comment()),
        }
    }

    /// A list of items, in one line or in several.
    fn list(&mut self, items: &[String], lines: bool) -> String {
        if !lines {
            return format!("[{}]", items.join(", "));
        }
        let mut text = format!("[{}", self.end());
        for (at, item) in items.iter().enumerate() {
            let comma = if at + 1 < items.len() || self.tape.yes() { "," } else { "" };
            text += &format!("{}    {item}{comma}{}", self.above("    "), self.end());
        }
        format!("{text}{}  ]", self.above("    "))
    }

    /// `{ version_id = …, percentage = … }` for shares that total 100 %.
    fn shares(&mut self, of: usize, lines: bool) -> String {
        let share = |at: usize| if at == 0 { 100 - 10 * (of - 1) } else { 10 };
        let spaces = ["", " "][self.tape.choose(2)];
        let item = |at: usize| {
            let version = VERSIONS[at];
            format!("{{{spaces} version_id = \"{version}\", percentage = {}{spaces}}}", share(at))
        };
        let items: Vec<_> = (0..of).map(item).collect();
        self.list(&items, lines)
    }

    /// The keys of a deployment in some order.
    fn keys(&mut self, of: usize, lines: bool) -> Vec<(&'static str, String)> {
        let lists = lines && self.tape.yes();
        let mut keys = vec![("versions", self.shares(of, lists))];
        if self.tape.yes() {
            keys.push(("ring", self.shares(of, lists)));
        }
        for key in ["id", "created_on", "author", "source", "message"] {
            if self.tape.yes() {
                let value = match key {
                    "id" => "\"d1\"".to_owned(),
                    "created_on" => "2026-01-01T00:00:00Z".to_owned(),
                    _ => TEXTS[self.tape.choose(if lines { TEXTS.len() } else { 2 })].to_owned(),
                };
                let at = self.tape.choose(keys.len() + 1);
                keys.insert(at, (key, value));
            }
        }
        keys
    }

    fn lines(&mut self, keys: Vec<(&str, String)>, indent: &str, prefix: &str) {
        for (key, value) in keys {
            let line = format!("{}{indent}{prefix}{key} = {value}{}", self.above(indent), self.end());
            self.text += &line;
        }
    }

    fn header(&mut self, indent: &str, header: &str) {
        let line = format!("{}{indent}{header}{}", self.above(indent), self.end());
        self.text += &line;
    }

    /// A version as the inside of a table in braces.
    fn version_in_braces(at: usize) -> String {
        format!("{{ id = \"{}\", upstreams = [\"http://u{at}\"] }}", VERSIONS[at])
    }

    fn in_braces(&mut self, of: usize, lines: bool) -> String {
        let keys = self.keys(of, lines).into_iter().map(|(key, value)| format!("{key} = {value}"));
        let keys: Vec<_> = keys.collect();
        if lines && self.tape.yes() {
            let list = self.list(&keys, true);
            return format!("{{{}}}", &list[1..list.len() - 1]);
        }
        format!("{{ {} }}", keys.join(", "))
    }

    fn versions(&mut self, of: usize, indent: &str) {
        for (at, id) in VERSIONS.iter().enumerate().take(of) {
            self.header(indent, "[[worker.version]]");
            let keys = vec![("id", format!("\"{id}\"")), ("upstreams", format!("[\"http://u{at}\"]"))];
            self.lines(keys, indent, "");
            if self.tape.yes() {
                self.header(indent, "[worker.version.health]");
                self.lines(vec![("path", "\"/up\"".to_owned())], indent, "");
            }
        }
    }

    fn deployment(&mut self, of: usize, indent: &str, in_sections: bool) {
        if !in_sections || self.tape.yes() {
            self.header(indent, "[worker.deployment]");
        }
        if !in_sections {
            let keys = self.keys(of, true);
            return self.lines(keys, indent, "");
        }
        for (at, id) in VERSIONS.iter().enumerate().take(of) {
            self.header(indent, "[[worker.deployment.versions]]");
            let share = if at == 0 { 100 - 10 * (of - 1) } else { 10 };
            self.lines(
                vec![("version_id", format!("\"{id}\"")), ("percentage", share.to_string())],
                indent,
                "",
            );
        }
    }

    /// A worker with sections of its own.
    fn worker(&mut self, worker: &str, of: usize) {
        let indent = ["", "  ", "\t"][self.tape.choose(3)];
        self.header(indent, "[[worker]]");
        let keys = vec![("name", format!("\"{worker}\"")), ("routes", format!("[\"{worker}/*\"]"))];
        self.lines(keys, indent, "");
        let (version, deployment) = (self.tape.choose(3), self.tape.choose(5));
        if version > 0 {
            let items: Vec<_> = (0..of).map(Self::version_in_braces).collect();
            let list = self.list(&items, version > 1);
            self.lines(vec![("version", list)], indent, "");
        }
        match deployment {
            0 => {
                let table = self.in_braces(of, true);
                self.lines(vec![("deployment", table)], indent, "");
            }
            1 => {
                let keys = self.keys(of, true);
                self.lines(keys, indent, "deployment.");
            }
            _ => {}
        }
        let deployment_first = self.tape.yes();
        if deployment > 1 && deployment_first {
            self.deployment(of, indent, deployment == 2);
        }
        if self.tape.yes() {
            self.header(indent, "[worker.affinity]");
            self.lines(vec![("salt", "\"s\"".to_owned())], indent, "");
        }
        if version == 0 {
            self.versions(of, indent);
        }
        if deployment > 1 && !deployment_first {
            self.deployment(of, indent, deployment == 2);
        }
    }

    /// All workers as one list.
    fn workers(&mut self, counts: &[usize]) {
        let mut items = Vec::new();
        for (worker, &of) in WORKERS.iter().zip(counts) {
            let versions: Vec<_> = (0..of).map(Self::version_in_braces).collect();
            let lines = self.tape.yes();
            let mut keys = vec![format!("name = \"{worker}\"")];
            if self.tape.yes() {
                let own = self.keys(of, lines).into_iter();
                keys.extend(own.map(|(key, value)| format!("deployment.{key} = {value}")));
            } else {
                keys.push(format!("deployment = {}", self.in_braces(of, lines)));
            }
            keys.push(format!("version = {}", self.list(&versions, lines)));
            keys.push(format!("routes = [\"{worker}/*\"]"));
            let list = self.list(&keys, lines);
            items.push(format!("{{{}}}", &list[1..list.len() - 1]));
        }
        let lines = self.tape.yes();
        let list = self.list(&items, lines);
        self.lines(vec![("worker", list)], "", "");
    }
}

/// A file, how many workers it has, and how many comments.
fn written(tape: &[u8]) -> (String, usize, usize) {
    let mut writer = Writer { tape: Tape(tape.iter()), text: String::new(), comments: 0 };
    let counts: Vec<_> =
        (0..=writer.tape.choose(WORKERS.len())).map(|_| 1 + writer.tape.choose(VERSIONS.len())).collect();
    let (in_list, windows, open) = (writer.tape.choose(4) == 3, writer.tape.yes(), writer.tape.yes());
    if in_list {
        writer.workers(&counts);
    }
    writer.text += "[[listener]]\naddress = \"127.0.0.1:1\"\n";
    if !in_list {
        for (worker, of) in WORKERS.iter().zip(&counts) {
            writer.worker(worker, *of);
        }
    }
    if open {
        writer.text.truncate(writer.text.trim_end().len());
    }
    let text = if windows { writer.text.replace('\n', "\r\n") } else { writer.text };
    (text, counts.len(), writer.comments)
}

/// Shares of up to four versions, which total 100 %.
fn split() -> impl Strategy<Value = Vec<(VersionId, Share)>> {
    let order = Just(VERSIONS.to_vec()).prop_shuffle();
    (order, proptest::collection::vec(0..=100_000_u32, 0..4)).prop_map(|(order, mut cuts)| {
        cuts.extend([0, 100_000]);
        cuts.sort_unstable();
        let share = |pair: &[u32]| Share::from_thousandths(pair[1] - pair[0]).unwrap();
        order.into_iter().map(id).zip(cuts.windows(2).map(share)).collect()
    })
}

fn optional() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(prop_oneof![any::<String>(), "[ -~]{0,20}"])
}

fn new_deployment() -> impl Strategy<Value = NewDeployment> {
    let ring = proptest::option::of(Just(Vec::new()));
    (split(), ring, optional(), optional(), optional()).prop_map(
        |(versions, ring, author, source, message)| NewDeployment {
            id: "d9".to_owned(),
            created_on: "2026-11-22T05:00:00Z".to_owned(),
            author,
            source,
            message,
            versions,
            ring,
        },
    )
}

/// The deployment without versions that the worker does not know; the first one has their shares, too.
fn fitted(mut new: NewDeployment, known: &[&str]) -> NewDeployment {
    new.versions.retain(|(version, _)| known.contains(&version.as_str()));
    let total: u32 = new.versions.iter().map(|(_, share)| share.thousandths()).sum();
    match new.versions.first_mut() {
        Some((_, share)) => {
            *share = Share::from_thousandths(share.thousandths() + 100_000 - total).unwrap();
        }
        None => new.versions.push((id(known[0]), Share::WHOLE)),
    }
    let ring = new.versions.iter().rev().cloned().collect();
    NewDeployment { ring: new.ring.and(Some(ring)), ..new }
}

/// The deployment that is to be understood.
fn understood(new: &NewDeployment, salt: &[u8]) -> Deployment {
    let shares: Vec<_> = new.versions.iter().map(|(_, share)| *share).collect();
    let place = |wanted: &VersionId| new.versions.iter().position(|(version, _)| version == wanted).unwrap();
    let ring = match &new.ring {
        None => Ring::cumulative(salt, &shares),
        Some(arcs) => {
            let arcs: Vec<_> = arcs.iter().map(|(version, share)| (place(version), *share)).collect();
            Ring::with_arcs(salt, &shares, &arcs)
        }
    };
    Deployment {
        id: new.id.clone(),
        created_on: Some(new.created_on.clone()),
        author: new.author.clone(),
        source: new.source.clone(),
        message: new.message.clone(),
        versions: new.versions.iter().map(|(version, _)| version.clone()).collect(),
        ring: ring.unwrap(),
    }
}

fn has_all_comments(text: &str, comments: usize) {
    for number in 1..=comments {
        let comment = format!("# c{number}.");
        assert_eq!(text.matches(&comment).count(), 1, "{comment} in:\n{text}");
    }
}

fn has_one_kind_of_line_end(old: &str, new: &str) {
    if old.contains("\r\n") {
        assert_eq!(new.matches('\n').count(), new.matches("\r\n").count(), "{new:?}");
    } else if old.contains('\n') {
        assert!(!new.contains('\r'), "{new:?}");
    }
}

/// Whether a line is certainly about something else than a deployment.
fn is_of_no_deployment(line: &str) -> bool {
    let starts = [
        "[[listener",
        "address",
        "[[worker]]",
        "name",
        "routes",
        "[[worker.version",
        "upstreams",
        "[worker.version",
    ];
    let starts = starts.into_iter().chain(["path", "[worker.affinity", "salt"]);
    starts.into_iter().any(|start| line.trim_start().starts_with(start))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn another_deployment_is_understood_as_it_is_meant_and_nothing_else_changes(
        tape in proptest::collection::vec(any::<u8>(), 0..160),
        new in new_deployment(),
        worker in any::<prop::sample::Index>(),
    ) {
        let (old, workers, comments) = written(&tape);
        let worker = worker.index(workers);
        let mut expected = config(&old);
        let known = expected.workers[worker].versions.len();
        let new = fitted(new, &VERSIONS[..known]);
        let text = set_deployment(&old, &name(WORKERS[worker]), &new).unwrap();
        let deployment = &mut expected.workers[worker].policy.deployment;
        *deployment = understood(&new, deployment.ring.salt());
        assert_eq!(config(&text), expected, "{old}\n-----\n{text}");
        has_all_comments(&text, comments);
        has_one_kind_of_line_end(&old, &text);
        assert_eq!(old.ends_with('\n'), text.ends_with('\n'), "{old}\n-----\n{text}");
        // What stands before the deployment's worker and behind it is untouched.
        let own = old.find(&format!("name = \"{}\"", WORKERS[worker])).unwrap();
        let next = WORKERS.get(worker + 1).and_then(|next| old.find(&format!("name = \"{next}\"")));
        let (before, behind) = (&old[..own], next.map_or("", |next| &old[next..]));
        let before = if old.starts_with("[[listener]]") { before } else { "" };
        assert!(text.starts_with(before) && text.ends_with(behind), "{old}\n-----\n{text}");
        let mut lines = text.lines();
        for line in old.lines().filter(|line| is_of_no_deployment(line)) {
            assert!(lines.any(|found| found == line), "{line} in:\n{old}\n-----\n{text}");
        }
        assert_eq!(set_deployment(&text, &name(WORKERS[worker]), &new).unwrap(), text);
    }

    #[test]
    fn a_version_more_is_understood_as_it_is_meant_and_nothing_else_changes(
        tape in proptest::collection::vec(any::<u8>(), 0..160),
        message in optional(),
        tag in proptest::option::of("[ -~]{1,20}"),
        worker in any::<prop::sample::Index>(),
    ) {
        let (old, workers, comments) = written(&tape);
        let worker = worker.index(workers);
        let new = NewVersion {
            message,
            tag: tag.map(|tag| Tag::new(&tag).unwrap()),
            migration: Some(Tag::new("m\\1").unwrap()),
            ..super::version()
        };
        let text = add_version(&old, &name(WORKERS[worker]), &new).unwrap();
        let mut found = config(&text);
        let version = found.workers[worker].versions.pop().unwrap();
        assert_eq!(found, config(&old), "{old}\n-----\n{text}");
        let metadata = version.metadata;
        assert_eq!((metadata.id, metadata.tag, metadata.message), (new.id, new.tag, new.message));
        assert_eq!((metadata.created_on, metadata.migration), (Some(new.created_on), new.migration));
        let upstreams: Vec<_> = version.upstreams.iter().map(|upstream| upstream.value.to_string()).collect();
        assert_eq!(upstreams, new.upstreams);
        has_all_comments(&text, comments);
        has_one_kind_of_line_end(&old, &text);
        assert_eq!(old.ends_with('\n'), text.ends_with('\n'), "{old}\n-----\n{text}");
        let prefix = old.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let suffix = old.bytes().rev().zip(text.bytes().rev()).take_while(|(a, b)| a == b).count();
        // In a list, a comma may be put behind the last item besides.
        let is_list = prefix + suffix < old.len();
        assert!(!is_list || text.contains(",\n") || text.contains(",\r\n") || text.contains(", #"), "{old}\n-----\n{text}");
    }
}
