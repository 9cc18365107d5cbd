//! `gradual plan`.

use serde_json::{Value, json};

use super::stage::{ADMIN, Place, V1, V2};
use super::terminal::Terminal;
use crate::control::stage::file;

/// A place with a second file.
fn place(old: &str, new: &str) -> Place {
    let place = Place::with(old);
    std::fs::write(place.path().join("new.toml"), new).unwrap();
    place
}

const V3: &str = "f0f0f0f0-0000-4000-8000-000000000003";

/// A file of three versions.
fn three(shares: [u32; 3]) -> String {
    let text = file(ADMIN, 90);
    let third = format!(
        "[[worker.version]]\nid = \"{V3}\"\nupstreams = [\"http://127.0.0.1:9\"]\n\n[worker.deployment]"
    );
    let list: String = [V1, V2, V3]
        .iter()
        .zip(shares)
        .map(|(id, share)| format!("  {{ version_id = \"{id}\", percentage = {share} }},\n"))
        .collect();
    let text = text.replace("[worker.deployment]", &third);
    let at = text.find("versions = [").unwrap();
    format!("{}versions = [\n{list}]\n", &text[..at])
}

#[test]
fn a_plan_shows_who_moves_and_what_would_move_less() {
    let salted = file(ADMIN, 90).replace(
        "[[worker.version]]",
        "[worker.affinity]\ncookie = \"c\"\nsalt = \"x\"\n\n[[worker.version]]",
    );
    let salted = salted.replacen(
        "[worker.affinity]\ncookie = \"c\"\nsalt = \"x\"\n\n[[worker.version]]\nid = \"dc8d",
        "[[worker.version]]\nid = \"dc8d",
        1,
    );
    let renamed = file(ADMIN, 90).replace("\"shop\"", "\"store\"");
    for (name, old, new) in [
        ("plan_grows.txt", file(ADMIN, 90), file(ADMIN, 75)),
        ("plan_nothing.txt", file(ADMIN, 90), file(ADMIN, 90)),
        ("plan_more_than_necessary.txt", three([30, 30, 40]), three([40, 30, 30])),
        ("plan_other_salt.txt", file(ADMIN, 90), salted),
        ("plan_other_workers.txt", file(ADMIN, 90), renamed),
    ] {
        place(&old, &new).transcript(name, &["plan gradual.toml new.toml"]);
    }
}

#[test]
fn machines_get_an_object_for_each_worker() {
    let place = place(&three([30, 30, 40]), &three([40, 30, 30]));
    let plan = place.good(&["plan", "gradual.toml", "new.toml", "--json"]).json();
    let moves = json!([
        { "from": V2, "to": V1, "percentage": 10 },
        { "from": V3, "to": V2, "percentage": 10 },
    ]);
    let ring = json!([
        { "version_id": V1, "from": 0, "to": 40_000 },
        { "version_id": V2, "from": 40_000, "to": 70_000 },
        { "version_id": V3, "from": 70_000, "to": 100_000 },
    ]);
    let better = &plan[0]["better"];
    assert_eq!(
        (&plan[0]["worker"], &plan[0]["moved"], &plan[0]["least"]),
        (&json!("shop"), &json!(20), &json!(10))
    );
    assert_eq!((&plan[0]["moves"], &plan[0]["ring"]), (&moves, &ring));
    assert!(better["ring"].is_array(), "{better}");
    assert_eq!(place.good(&["plan", "new.toml", "new.toml", "--json"]).json()[0]["better"], Value::Null);
}

#[test]
fn what_a_plan_suggests_moves_the_least() {
    let place = place(&three([30, 30, 40]), &three([40, 30, 30]));
    let said = place.good(&["plan", "gradual.toml", "new.toml"]).out;
    let (_, layout) = said.split_once("no more than necessary:\n").unwrap();
    let text = three([40, 30, 30]);
    let head = &text[..text.find("versions = [").unwrap()];
    std::fs::write(place.path().join("new.toml"), format!("{head}{layout}")).unwrap();
    let plan = place.good(&["plan", "gradual.toml", "new.toml", "--json"]).json();
    assert_eq!((&plan[0]["moved"], &plan[0]["better"]), (&json!(10), &Value::Null));
}

#[test]
fn at_a_terminal_it_is_said_in_red_that_more_keys_move_than_must() {
    let red = "\x1b[1m\x1b[31m20% of all keys move, which is more than necessary";
    for (new, expected) in [([40, 30, 30], true), ([30, 30, 40], false)] {
        let place = place(&three([30, 30, 40]), &three(new));
        let mut terminal = Terminal::run(&place, &["plan", "gradual.toml", "new.toml"], &[]);
        assert_eq!(terminal.see("The ring then").end(), 0);
        assert_eq!(terminal.screen().contains(red), expected, "{:?}", terminal.screen());
    }
}

#[test]
fn bad_files_and_unknown_workers_are_refused() {
    let place = place(&file(ADMIN, 90), "nonsense");
    let said = place.run(&["plan", "gradual.toml", "new.toml", "--json"]);
    assert_eq!((said.code, said.kind().as_str()), (1, "bad-file"));
    assert_eq!(said.json()["error"]["report"]["errors"], 1);
    assert!(said.err.contains("new.toml:1:"), "{}", said.err);
    let said = place.run(&["plan", "gradual.toml", "gradual.toml", "--worker", "x", "--json"]);
    assert_eq!((said.code, said.kind().as_str()), (1, "unknown-worker"));
}
