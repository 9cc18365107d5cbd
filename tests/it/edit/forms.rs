//! The forms that TOML has for one and the same file, and what becomes of each.

use gradual::config::edit::{NewDeployment, add_version, set_deployment};

use super::{config, deployment, name, shares, version};

const FRONT: &str = "[[listener]]\naddress = \"127.0.0.1:8080\"\n";

/// The text behind [`FRONT`] after another deployment of `a`.
fn deployed(text: &str, new: &NewDeployment) -> String {
    let whole = set_deployment(&format!("{FRONT}{text}"), &name("a"), new).unwrap();
    let found = config(&whole).workers[0].policy.deployment.clone();
    assert_eq!((&found.id, &found.message, &found.author), (&new.id, &new.message, &new.author), "{whole}");
    assert_eq!(found.versions, new.versions.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), "{whole}");
    whole.strip_prefix(FRONT).unwrap().to_owned()
}

/// The text behind [`FRONT`] with one more version of `a`.
fn added(text: &str) -> String {
    let whole = add_version(&format!("{FRONT}{text}"), &name("a"), &version()).unwrap();
    let found = config(&whole).workers.iter().find(|worker| worker.policy.name == name("a")).unwrap().clone();
    assert_eq!(found.versions.last().unwrap().metadata.id.as_str(), "v9", "{whole}");
    whole.strip_prefix(FRONT).unwrap().to_owned()
}

const WORKER: &str = "[[worker]]\nname = \"a\"\nversion = [{ id = \"v1\", upstreams = [\"http://a\"] }, { id = \"v2\", upstreams = [\"http://b\"] }]\n";

#[test]
fn entries_that_stay_keep_their_comments_and_those_that_go_leave_theirs() {
    let old = format!(
        "{WORKER}[worker.deployment] # how\n# who\nauthor = \"ana\" # she\nring = [ # arcs\n  # first\n  \
         {{ version_id = \"v1\", percentage = 90 }}, # big\n  {{ version_id = \"v2\", percentage = 10 }},\n]\n\
         # what\nversions = [\n    # stable\n    {{ version_id = \"v1\",  percentage = 90.0 }}, # long\n\n    # canary\n    \
         {{ version_id = \"v2\", percentage = 10 }} # short\n    # end\n] # done\n# rest\n"
    );
    let message = Some("a \"b\"\n\u{7}\u{1f600}".to_owned());
    let new = NewDeployment { message, ..deployment(&[("v2", "100")]) };
    let expected = format!(
        "{WORKER}[worker.deployment] # how\nid = \"d9\"\ncreated_on = 2026-11-22T05:00:00Z\n\
         message = \"a \\\"b\\\"\\n\\u0007\u{1f600}\"\n# who\n# she\n# arcs\n# first\n# big\n\
         # what\nversions = [\n    # stable\n    # long\n\n    # canary\n    \
         {{ version_id = \"v2\", percentage = 100 }}, # short\n    # end\n] # done\n# rest\n"
    );
    assert_eq!(deployed(&old, &new), expected);
}

#[test]
fn a_list_in_one_line_becomes_one_of_a_line_each_and_a_ring_stands_behind_it() {
    let old =
        format!("{WORKER}  [worker.deployment]\n  versions = [{{ version_id = \"v1\", percentage = 100 }}]");
    let ring = shares(&[("v2", "25"), ("v1", "50"), ("v2", "25")]);
    let new = NewDeployment { ring: Some(ring), ..deployment(&[("v1", "50"), ("v2", "50")]) };
    let expected = format!(
        "{WORKER}  [worker.deployment]\n  id = \"d9\"\n  created_on = 2026-11-22T05:00:00Z\n  versions = [\n    \
         {{ version_id = \"v1\", percentage = 50 }},\n    {{ version_id = \"v2\", percentage = 50 }},\n  ]\n  ring = [\n    \
         {{ version_id = \"v2\", percentage = 25 }},\n    {{ version_id = \"v1\", percentage = 50 }},\n    \
         {{ version_id = \"v2\", percentage = 25 }},\n  ]"
    );
    assert_eq!(deployed(&old, &new), expected);
}

#[test]
fn a_deployment_in_braces_stays_in_its_line() {
    let old = format!(
        "{WORKER}deployment = {{ author = 'x', message = \"old\", versions = [{{ version_id = \"v1\", percentage = 100 }}] }} # c\n"
    );
    let new = deployment(&[("v1", "50"), ("v2", "50")]);
    let expected = format!(
        "{WORKER}deployment = {{ id = \"d9\", created_on = 2026-11-22T05:00:00Z, versions = [{{ version_id = \"v1\", percentage = 50 }}, \
         {{ version_id = \"v2\", percentage = 50 }}] }} # c\n"
    );
    assert_eq!(deployed(&old, &new), expected);
    // And back to fewer keys where the last one goes.
    let old = format!(
        "{WORKER}deployment = {{ id = \"d9\", created_on = 2026-11-22T05:00:00Z, versions = [{{ version_id = \"v1\", percentage = 100 }}], \
         ring = [ # arcs\n{{ version_id = \"v1\", percentage = 100 }} ] }}\n"
    );
    let expected = format!(
        "{WORKER}# arcs\ndeployment = {{ id = \"d9\", created_on = 2026-11-22T05:00:00Z, versions = [{{ version_id = \"v1\", percentage = 100 }}] }}\n"
    );
    assert_eq!(deployed(&old, &deployment(&[("v1", "100")])), expected);
}

#[test]
fn braces_over_several_lines_keep_their_lines_and_comments() {
    let old = format!(
        "{WORKER}deployment = {{\n  id = \"d1\", # one\n  message = \"old\", # why\n  versions = [\n    {{ version_id = \"v1\", percentage = 100 }},\n  ],\n}}\n"
    );
    let expected = format!(
        "{WORKER}deployment = {{\n  id = \"d9\", # one\n  created_on = 2026-11-22T05:00:00Z,\n  # why\n  versions = [\n    \
         {{ version_id = \"v1\", percentage = 50 }},\n    {{ version_id = \"v2\", percentage = 50 }},\n  ],\n}}\n"
    );
    assert_eq!(deployed(&old, &deployment(&[("v1", "50"), ("v2", "50")])), expected);
}

#[test]
fn dotted_keys_go_on_as_dotted_keys() {
    let old = format!(
        "{WORKER}\"deployment\" . versions = [{{ version_id = \"v1\", percentage = 100 }}]\ndeployment.author = \"x\"\nroutes = [\"a/*\"]\n"
    );
    let new = NewDeployment { message: Some("m".to_owned()), ..deployment(&[("v2", "100")]) };
    let expected = format!(
        "{WORKER}\"deployment\" . versions = [\n  {{ version_id = \"v2\", percentage = 100 }},\n]\ndeployment.id = \"d9\"\n\
         deployment.created_on = 2026-11-22T05:00:00Z\ndeployment.message = \"m\"\nroutes = [\"a/*\"]\n"
    );
    assert_eq!(deployed(&old, &new), expected);
}

#[test]
fn workers_in_braces_are_edited_as_others_are() {
    let old = "worker = [ # all\n  { name = \"a\", version = [{ id = \"v1\", upstreams = [\"http://a\"] }], \
               deployment.versions = [{ version_id = \"v1\", percentage = 100 }], deployment.source = \"x\" }, # a\n]\n";
    let whole = format!("{old}{FRONT}");
    let text = set_deployment(&whole, &name("a"), &deployment(&[("v1", "100")])).unwrap();
    assert_eq!(config(&text).workers[0].policy.deployment.id, "d9");
    let text = add_version(&text, &name("a"), &version()).unwrap();
    assert_eq!(config(&text).workers[0].versions.len(), 2);
    assert!(
        text.starts_with("worker = [ # all\n  { name = \"a\",") && text.contains("}, # a\n]\n"),
        "{text}"
    );
    assert!(!text.contains("source"), "{text}");
}

#[test]
fn sections_of_shares_keep_their_form_as_long_as_the_versions_are_the_same() {
    let sections = |one: u32, two: u32| {
        format!(
            "# canary\n[[worker.deployment.versions]]\nversion_id = \"v1\"\npercentage = {one} # small\n\n\
             # rest\n[[worker.deployment.versions]]\nversion_id = \"v2\"\npercentage = {two}\n"
        )
    };
    let old = format!("{WORKER}[worker.deployment]\nid = \"d1\"\n\n{}", sections(10, 90));
    let expected = format!(
        "{WORKER}[worker.deployment]\nid = \"d9\"\ncreated_on = 2026-11-22T05:00:00Z\n\n{}",
        sections(20, 80)
    );
    assert_eq!(deployed(&old, &deployment(&[("v1", "20"), ("v2", "80")])), expected);
    for old in [old, format!("{WORKER}{}", sections(10, 90))] {
        let new = deployed(&old, &deployment(&[("v2", "100")]));
        assert!(new.contains("versions = [\n  { version_id = \"v2\", percentage = 100 },\n]\n"), "{new}");
        for comment in ["# canary\n", "# small\n", "# rest\n"] {
            assert!(new.contains(comment), "{new}");
        }
        assert!(!new.contains("deployment.versions]]"), "{new}");
    }
}

#[test]
fn a_version_is_put_behind_all_that_belongs_to_the_right_workers_last_one() {
    let deployment = "[worker.deployment]\nversions = [{ version_id = \"v1\", percentage = 100 }]\n";
    let first = format!(
        "[[worker]]\nname = \"a\"\nroutes = [\"a/*\"]\n\n{deployment}\n  [[ worker . version ]] # v\n    id = \"v1\"\n    \
         upstreams = [\"https://a\"]\n\n  [worker.version.tls]\n    server_name = \"a\" # n\n    # more\n"
    );
    let last = format!(
        "\n# b\n[[worker]]\nname = \"b\"\nroutes = [\"b/*\"]\n[[worker.version]]\nid = \"v1\"\nupstreams = [\"http://b\"]\n{deployment}"
    );
    let expected = "\n  [[ worker . version ]]\n    id = \"v9\"\n    tag = \"2.0\"\n    message = \"carts, \\\"again\\\"\"\n    \
                    created_on = 2026-11-22T05:00:00Z\n    upstreams = [\"http://127.0.0.1:3009\", \"unix:/run/v9.sock\"]\n";
    assert_eq!(added(&format!("{first}{last}")), format!("{first}{expected}{last}"));
    // Line ends are those of the file, the last line has none, and what follows at once is set apart.
    let windows = format!("{FRONT}{first}{}", last.trim_end()).replace('\n', "\r\n");
    let new = add_version(&windows, &name("b"), &version()).unwrap();
    assert!(new.contains("[\"http://b\"]\r\n\r\n[[worker.version]]\r\nid = \"v9\"\r\n"), "{new:?}");
    assert!(new.contains("v9.sock\"]\r\n\r\n[worker.deployment]\r\n"), "{new:?}");
    assert_eq!(new.matches('\n').count(), new.matches("\r\n").count());
    assert!(!new.ends_with('\n'));
}

#[test]
fn a_version_in_a_list_is_put_behind_the_last_one() {
    let new = "{ id = \"v9\", tag = \"2.0\", message = \"carts, \\\"again\\\"\", created_on = 2026-11-22T05:00:00Z, \
               upstreams = [\"http://127.0.0.1:3009\", \"unix:/run/v9.sock\"] }";
    let v1 = "{ id = \"v1\", upstreams = [\"http://a\"] }";
    let deployment = "deployment.versions = [{ version_id = \"v1\", percentage = 100 }]\n";
    for (old, expected) in [
        (format!("[{v1}]"), format!("[{v1}, {new}]")),
        (format!("[ {v1}, ]"), format!("[ {v1}, {new}, ]")),
        (format!("[\n  {v1}, # one\n  # end\n]"), format!("[\n  {v1}, # one\n  {new},\n  # end\n]")),
        (format!("[\n  {v1} # one\n]"), format!("[\n  {v1}, # one\n  {new}\n]")),
        (format!("[\n  {v1}]"), format!("[\n  {v1},\n  {new}]")),
        (format!("[\n  {v1} # one\n  , # two\n]"), format!("[\n  {v1} # one\n  , # two\n  {new},\n]")),
    ] {
        let whole = |list: &str| format!("[[worker]]\nname = \"a\"\nversion = {list} # list\n{deployment}");
        assert_eq!(added(&whole(&old)), whole(&expected));
    }
}
