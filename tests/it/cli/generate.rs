//! `gradual completions` and `gradual man`.

use super::stage::Place;

#[test]
fn completions_for_every_shell_know_the_commands_and_their_options() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.good(&["completions", shell]).out;
        for word in ["versions", "rollback", "version-tag", "dry-run"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    assert_eq!(place.run(&["completions", "dcl"]).code, 2);
}

#[test]
fn bash_takes_the_script() {
    let place = Place::new();
    let script = place.good(&["completions", "bash"]).out;
    std::fs::write(place.path().join("script"), script).unwrap();
    let words = "source ./script; COMP_WORDS=(gradual versions dep); COMP_CWORD=2; _gradual gradual dep versions; echo ${COMPREPLY[@]}";
    let Ok(output) =
        std::process::Command::new("bash").args(["-c", words]).current_dir(place.path()).output()
    else {
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "deploy\n", "{output:?}");
}

#[test]
fn manual_pages_are_made_for_every_command() {
    let place = Place::new();
    let page = place.good(&["man"]).out;
    assert!(page.contains(".TH gradual 1") && page.contains("NO_COLOR"), "{page}");
    place.good(&["man", "--out", "pages"]);
    for name in ["gradual.1", "gradual-versions-deploy.1", "gradual-deployments-view.1", "gradual-run.1"] {
        let page = std::fs::read_to_string(place.path().join("pages").join(name)).unwrap();
        assert!(page.contains(".TH"), "{name}");
    }
    let said = place.run(&["man", "--out", "gradual.toml"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("cannot be written in gradual.toml"), "{}", said.err);
}
