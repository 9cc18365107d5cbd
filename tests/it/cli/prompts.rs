//! Questions: at a terminal, and never elsewhere.

use super::stage::{Place, V1, V2};
use super::terminal::{CTRL_C, DOWN, ENTER, Terminal, UP};

fn split(shares: &[(&str, &str)]) -> Vec<(String, String)> {
    shares.iter().map(|&(id, share)| (id.to_owned(), share.to_owned())).collect()
}

#[test]
fn versions_percentages_and_a_message_are_asked_for_and_the_plan_is_shown_before_the_last_question() {
    let place = Place::new();
    let v3 = place.upload(&["--tag", "v3"]);
    let mut terminal = Terminal::run(&place, &["versions", "deploy"], &[]);
    // Newest first; those that are deployed are selected: v3 instead of v2.
    terminal
        .see("Which version(s)")
        .see(V1)
        .press(" ")
        .see(V1)
        .press(DOWN)
        .see(V1)
        .press(" ")
        .see(V1)
        .press(ENTER);
    terminal.see(&format!("What percentage of traffic should version {v3}")).press("15").press(ENTER);
    terminal.see(&format!("What percentage of traffic should version {V1}")).press(ENTER);
    terminal.see("Add a deployment message").press("careful").press(ENTER);
    terminal.see("Who moves").see("15%").see("Deploy this to shop?").press("y");
    assert_eq!(terminal.end(), 0, "{}", terminal.screen());
    assert!(terminal.shows_the_cursor());
    assert_eq!(place.split(), split(&[(V1, "85"), (&v3, "15")]));
    let active = place.good(&["deployments", "status", "--json"]).json();
    assert_eq!(active["annotations"]["workers/message"], "careful");
}

#[test]
fn bad_answers_are_asked_again() {
    let place = Place::new();
    let mut terminal = Terminal::run(&place, &["versions", "deploy", "--message", "x"], &[]);
    terminal
        .see("Which version(s)")
        .see(V1)
        .press(" ")
        .see(V1)
        .press(DOWN)
        .see(V1)
        .press(" ")
        .see(V1)
        .press(ENTER);
    terminal.see("select at least 1 version").see(V1).press(DOWN).see(V1).press(UP).see(V1).press(ENTER);
    terminal.see(&format!("should version {V2}")).press("lots").press(ENTER);
    terminal.see("could not parse").see(V2).press("120").press(ENTER);
    terminal.see("out of range").see(V2).press("30").press(ENTER);
    terminal.see(&format!("should version {V1}")).press("60").press(ENTER);
    terminal.see("add up to 90, but must total exactly 100").see(V2).press("30").press(ENTER);
    terminal.see(&format!("should version {V1}")).press(ENTER).see("Deploy this to shop?").press(ENTER);
    assert_eq!(terminal.end(), 0, "{}", terminal.screen());
    assert_eq!(place.split(), split(&[(V1, "70"), (V2, "30")]));
}

#[test]
fn who_is_interrupted_or_declines_has_changed_nothing_and_sees_the_cursor() {
    let place = Place::new();
    let before = place.text();
    for steps in [
        &[][..],
        &[("Which version(s)", V1)],
        &[("Which version(s)", V1), ("should version", V2), ("should version", V1)],
    ] {
        let mut terminal = Terminal::run(&place, &["versions", "deploy"], &[]);
        for (words, more) in steps {
            terminal.see(words).see(more).press(ENTER);
        }
        terminal.see("?");
        assert_eq!(terminal.press_until_the_end(CTRL_C), 130, "{}", terminal.screen());
        terminal.see("interrupted; nothing was changed");
        assert!(terminal.shows_the_cursor(), "{:?}", terminal.screen());
    }
    let mut terminal = Terminal::run(&place, &["rollback", V1, "--message", "x"], &[]);
    terminal.see("Roll back to this version").press("n");
    assert_eq!(terminal.end(), 1);
    terminal.see("nothing was changed");
    let mut terminal = Terminal::run(&place, &["deploy", V2], &[]);
    terminal.see("Deploy one version to all traffic?").press(ENTER);
    assert_eq!(terminal.end(), 1);
    assert_eq!(place.text(), before);
}

#[test]
fn a_signal_at_a_question_changes_nothing_and_one_later_says_that_the_file_may_be_changed() {
    let place = Place::new();
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let before = place.text();
        let mut terminal = Terminal::run(&place, &["versions", "deploy"], &[]);
        terminal.see("Which version(s)").see(V1).signal(name);
        assert_eq!(terminal.end(), code);
        terminal.see("interrupted; nothing was changed");
        assert!(terminal.shows_the_cursor() && place.text() == before, "{:?}", terminal.screen());
    }
    // A proxy that does not answer.
    let silent = std::os::unix::net::UnixListener::bind(place.path().join("admin.sock")).unwrap();
    let mut terminal = Terminal::run(&place, &["versions", "deploy", V1], &[]);
    let asked = silent.accept().unwrap();
    terminal.signal("INT");
    assert_eq!(terminal.end(), 130);
    terminal.see("the file may have been changed already");
    assert_eq!(place.split(), split(&[(V1, "100")]));
    drop(asked);
}

#[test]
fn a_rollback_shows_what_is_active_and_asks_why() {
    let place = Place::new();
    let mut terminal = Terminal::run(&place, &["rollback", V1], &[]);
    terminal.see("The active deployment").see("(90%)").see("Why is this rolled back?").press(ENTER);
    terminal.see("not rolled back").see("Who moves").see("Roll back to this version").press(ENTER);
    assert_eq!(terminal.end(), 0, "{}", terminal.screen());
    assert_eq!(place.split(), split(&[(V1, "100")]));
    let active = place.good(&["deployments", "status", "--json"]).json();
    assert_eq!(active["annotations"]["workers/message"], "Rollback");
}

#[test]
fn nothing_is_asked_of_who_said_yes_or_named_versions_or_in_ci() {
    let place = Place::new();
    for (arguments, variables) in [
        (&["rollback", V1, "--yes"][..], &[][..]),
        (&["versions", "deploy", V1, V2], &[]),
        (&["deploy", V2, "-y"], &[]),
        (&["rollback", V1], &[("CI", "true")]),
    ] {
        let mut terminal = Terminal::run(&place, arguments, variables);
        assert_eq!(terminal.end(), 0, "{}", terminal.screen());
        assert!(!terminal.screen().contains('?'), "{:?}", terminal.screen());
    }
    let mut terminal = Terminal::run(&place, &["versions", "deploy"], &[("CI", "1")]);
    assert_eq!(terminal.end(), 2);
}

#[test]
fn colours_are_for_terminals_whose_user_wants_them() {
    let place = Place::new();
    let colour = "\x1b[1m\x1b[31m";
    for (variables, expected) in [(&[][..], true), (&[("NO_COLOR", "1")], false), (&[("NO_COLOR", "")], true)]
    {
        let mut terminal = Terminal::run(&place, &["versions", "view", "00000000"], variables);
        assert_eq!(terminal.end(), 1);
        terminal.see("worker shop has no version").see("newest versions");
        assert_eq!(terminal.screen().contains(colour), expected, "{:?}", terminal.screen());
    }
    assert!(!place.run(&["versions", "view", "00000000"]).err.contains('\x1b'));
    let mut terminal = Terminal::run(&place, &["rollback", V1], &[("NO_COLOR", "1")]);
    terminal.see("Why is this rolled back?").press(ENTER).see("Roll back to this version").press("n");
    assert_eq!(terminal.end(), 1);
    let colours = regex::Regex::new(r"\x1b\[[0-9;]*m").unwrap();
    assert!(!colours.is_match(&terminal.screen()), "{:?}", terminal.screen());
}
