//! Reloads: a good file is the next generation, a bad one changes nothing.

use gradual::config::Address;
use gradual::control::{Options, run};

use super::stage::{ANY_PORT, Stage, file, worker};

const POST: &str = "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";

#[test]
fn a_good_file_is_the_next_generation() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    stage.write(&file(ANY_PORT, 50));
    let answer = stage.ask(POST);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), serde_json::json!({ "generation": 2, "warnings": [] }));
    let status = stage.status();
    assert_eq!(status["generation"], 2);
    assert_eq!(status["workers"][0]["deployment"]["versions"][0]["percentage"], 50);
    assert_eq!(status["last_reload"]["result"], "success");
}

#[test]
fn a_bad_file_changes_nothing_and_says_every_mistake() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    stage.write("this is no configuration");
    let answer = stage.ask(POST);
    assert_eq!(answer.status, 422);
    let problem = answer.json();
    assert_eq!((&problem["kind"], &problem["type"]), (&"bad-file".into(), &"about:blank".into()));
    assert!(!problem["diagnostics"].as_array().unwrap().is_empty());
    let status = stage.status();
    assert_eq!((&status["generation"], &status["ready"]), (&1.into(), &true.into()));
    assert_eq!(status["workers"][0]["deployment"]["versions"][0]["percentage"], 90);
    assert_eq!(status["last_reload"]["result"], "failure");
    assert_eq!(status["last_reload"]["report"]["diagnostics"], problem["diagnostics"]);
    stage.write(&file(ANY_PORT, 80));
    assert_eq!(stage.reload().unwrap().generation, 2);
}

#[test]
fn a_name_without_an_address_is_a_warning_at_its_place() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    stage.write(&worker(ANY_PORT, 90, "http://nowhere.invalid:80"));
    let answer = stage.ask(POST).json();
    assert_eq!(answer["generation"], 2);
    let warnings = answer["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{answer}");
    assert_eq!((&warnings[0]["severity"], &warnings[0]["line"]), (&"warning".into(), &14.into()), "{answer}");
    assert_eq!(warnings[0]["text"], "\"http://nowhere.invalid:80\"");
    assert_eq!(stage.status()["last_reload"]["report"]["warnings"], 1);
}

#[test]
fn an_access_log_that_cannot_be_opened_is_an_error_at_its_place_and_changes_nothing() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    stage.write(&format!("[log]\naccess = \"missing/a.log\"\n{}", file(ANY_PORT, 50)));
    let answer = stage.ask(POST);
    let problem = &answer.json()["diagnostics"][0];
    assert_eq!((&problem["line"], &problem["text"]), (&2.into(), &"\"missing/a.log\"".into()));
    assert_eq!((answer.status, stage.status()["generation"].as_u64()), (422, Some(1)));
}

#[test]
fn an_address_that_this_process_itself_holds_is_said_to_be_its_own() {
    let listener = |address: &str| file(ANY_PORT, 90).replace("unix:front.sock", address);
    let stage = Stage::new(&listener("127.0.0.1:0"));
    let [Address::Tcp(own)] = &stage.handle.listeners()[..] else { panic!("not TCP") };
    let admin = stage.handle.admin().unwrap().to_string();
    let moved = file(&format!("address = \"{own}\""), 90);
    for text in [listener(&format!("0.0.0.0:{}", own.port())), listener(&admin), moved] {
        stage.write(&text);
        let refused = stage.reload().unwrap_err();
        let help = refused.diagnostics[0].help.clone().unwrap_or_default();
        assert!(help.contains("this proxy itself") && help.contains("restart"), "{}", refused.render(false));
    }
    assert_eq!(stage.handle.status().generation(), 1);
}

#[test]
fn a_file_that_is_gone_changes_nothing() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    std::fs::remove_file(stage.path()).unwrap();
    let report = stage.reload().unwrap_err();
    assert!(report.has_errors());
    assert_eq!(stage.status()["generation"], 1);
}

#[tokio::test]
async fn reloads_that_wait_together_are_one_generation_and_everybody_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gradual.toml");
    std::fs::write(&path, file(ANY_PORT, 90)).unwrap();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let asks = async {
        let handle: gradual::control::Handle = receiver.await.unwrap();
        let (one, two, three) = tokio::join!(handle.reload(), handle.reload(), handle.reload());
        let generations = [one, two, three].map(|outcome| outcome.unwrap().unwrap().generation);
        assert_eq!(generations, [2, 2, 2]);
        assert_eq!(handle.reload().await.unwrap().unwrap().generation, 3);
        handle.stop();
        handle
    };
    let run = run(Options { file: path, watch: false }, |handle| drop(sender.send(handle)));
    let (ended, handle) = tokio::join!(run, asks);
    assert!(ended.is_ok());
    assert!(handle.reload().await.is_none(), "a reload after the end");
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("address = \"{}\"", taken.local_addr().unwrap());
    let path = folder.path().join("gradual.toml");
    for (text, words) in [(None, "gradual.toml"), (Some(file(&address, 90)), "cannot be listened on")] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let options = Options { file: path.clone(), watch: false };
        let report = run(options, |_| panic!("it started")).await.unwrap_err();
        assert!(report.render(false).contains(words), "{}", report.render(false));
    }
}
