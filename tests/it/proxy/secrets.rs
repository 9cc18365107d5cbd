//! Overrides that must show a secret, seen from outside.

use std::path::Path;

use crate::support::{Answer, Backend, File, Proxy, backend, file};

const OVERRIDES: &str = "Cloudflare-Workers-Version-Overrides";
const SECRET: &str = "s3cret-s3cret-s3cret";

/// A worker of which an override reaches `v2` only with the secret.
fn guarded(backends: &(Backend, Backend)) -> File {
    file()
        .top("[log]\naccess = \"access.log\"")
        .worker("expose_version = true\noverrides_secret_file = \"secret\"")
        .version("v1", &backends.0, 100)
        .version("v2", &backends.1, 0)
}

fn write_secret(folder: &Path, secret: &str) {
    std::fs::write(folder.join("secret"), format!("{secret}\n")).unwrap();
}

async fn start(file: &File) -> Proxy {
    let folder = tempfile::tempdir().unwrap();
    write_secret(folder.path(), SECRET);
    Proxy::start(folder, &file.text()).await
}

async fn two() -> (Backend, Backend) {
    (backend("v1").start().await, backend("v2").start().await)
}

/// Sends lines of overrides, in which `$` is the secret.
async fn ask(proxy: &Proxy, lines: &[&str]) -> Answer {
    let line = |line: &&str| format!("{OVERRIDES}: {}", line.replace('$', SECRET));
    let lines: Vec<_> = lines.iter().map(line).collect();
    proxy.get_with("/", &lines.iter().map(String::as_str).collect::<Vec<_>>()).await
}

fn forwarded(backend: &Backend) -> Option<String> {
    backend.last().header(&OVERRIDES.to_ascii_lowercase())
}

#[tokio::test]
async fn an_override_with_the_secret_counts_and_the_secret_goes_no_further() {
    let backends = two().await;
    let proxy = start(&guarded(&backends)).await;
    let answer = ask(&proxy, &[r#"shop="v2";token="$""#]).await;
    assert_eq!(answer.text(), "v2");
    assert_eq!(answer.header("gradual-version").unwrap(), r#""v2";worker=shop;tag="tag-v2";reason=override"#);
    assert_eq!(forwarded(&backends.1).as_deref(), Some(r#"shop="v2""#));
}

#[tokio::test]
async fn an_override_without_the_secret_is_denied_and_what_was_shown_goes_no_further() {
    let backends = two().await;
    let proxy = start(&guarded(&backends)).await;
    for (field, left) in [
        (r#"shop="v2""#, r#"shop="v2""#),
        (r#"shop="v2";token="$$""#, r#"shop="v2""#),
        (r#"shop="v2";token=$;x"#, r#"shop="v2";x"#),
        (r#"shop="v2";token="$";token="wrong""#, r#"shop="v2""#),
        (r#"shop="v2";token="$", shop="v2""#, r#"shop="v2", shop="v2""#),
        (r#"shop="v3""#, r#"shop="v3""#),
    ] {
        let answer = ask(&proxy, &[field]).await;
        let says = r#""v1";worker=shop;tag="tag-v1";reason=random;override=denied"#;
        assert_eq!(answer.header("gradual-version").as_deref(), Some(says), "{field}");
        assert_eq!(forwarded(&backends.0).as_deref(), Some(left), "{field}");
    }
}

#[tokio::test]
async fn other_workers_members_pass_on_byte_for_byte() {
    let backends = two().await;
    let proxy = start(&guarded(&backends)).await;
    let other = r#"api="v7"; token="api-secret-api-secret" ,  shop="v2";token="$";x=1 , *="token";token"#;
    assert_eq!(ask(&proxy, &[other]).await.text(), "v2");
    let left = r#"api="v7"; token="api-secret-api-secret" ,  shop="v2";x=1 , *="token";token"#;
    assert_eq!(forwarded(&backends.1).as_deref(), Some(left));
}

#[tokio::test]
async fn of_several_lines_each_keeps_what_is_not_the_token() {
    let backends = two().await;
    let proxy = start(&guarded(&backends)).await;
    let answer = ask(&proxy, &[r#"api="1";token="t""#, r#"shop="v1";token="$""#, r#"shop="v2";token="$""#]);
    assert_eq!(answer.await.text(), "v2");
    assert_eq!(forwarded(&backends.1).as_deref(), Some(r#"api="1";token="t" | shop="v1" | shop="v2""#));
    // A String that goes over two lines.
    assert_eq!(ask(&proxy, &[r#"shop="v2";token="$"#, r#"";x, b"#]).await.text(), "v1");
    assert_eq!(forwarded(&backends.0).as_deref(), Some(r#"shop="v2";x, b"#));
}

#[tokio::test]
async fn a_field_that_is_no_dictionary_is_not_forwarded_where_a_secret_could_be_in_it() {
    let backends = two().await;
    let guarded = start(&guarded(&backends)).await;
    let invalid = r#"shop="v2";token="$", ="#;
    let answer = ask(&guarded, &[invalid]).await;
    assert!(answer.header("gradual-version").unwrap().ends_with("override=invalid"), "{answer:?}");
    assert_eq!(forwarded(&backends.0), None);
    let open = start(&file().version("v1", &backends.0, 100)).await;
    ask(&open, &[invalid]).await;
    assert_eq!(forwarded(&backends.0), Some(invalid.replace('$', SECRET)));
}

#[tokio::test]
async fn a_worker_without_secret_forwards_tokens_as_they_are() {
    let backends = two().await;
    let open = start(&file().version("v1", &backends.0, 100).version("v2", &backends.1, 0)).await;
    assert_eq!(ask(&open, &[r#"shop="v2";token="$""#]).await.text(), "v2");
    assert_eq!(forwarded(&backends.1), Some(format!(r#"shop="v2";token="{SECRET}""#)));
}

#[tokio::test]
async fn the_secret_does_not_make_up_for_a_sender_who_may_not_send_overrides() {
    let backends = two().await;
    for senders in ["trusted", "never"] {
        let proxy = start(&guarded(&backends).worker(&format!("overrides = \"{senders}\""))).await;
        let answer = ask(&proxy, &[r#"shop="v2";token="$""#]).await;
        assert!(answer.header("gradual-version").unwrap().ends_with("override=denied"), "{answer:?}");
        assert_eq!(forwarded(&backends.0), None);
    }
}

#[tokio::test]
async fn the_secret_is_in_no_record() {
    let backends = two().await;
    let proxy = start(&guarded(&backends)).await;
    for field in [r#"shop="v2";token="$""#, r#"shop="v3";token="$""#, r#"shop="v2";token="$", ="#] {
        let answer = ask(&proxy, &[field]).await;
        assert!(!format!("{answer:?}").contains(SECRET), "{answer:?}");
    }
    let (metrics, lines) = proxy.records().await;
    assert_eq!(lines.len(), 3);
    assert!(!metrics.contains(SECRET) && !format!("{lines:?}").contains(SECRET), "{lines:?}");
}

#[tokio::test]
async fn a_reload_reads_the_secret_again_and_a_bad_one_changes_nothing() {
    let backends = two().await;
    let file = guarded(&backends);
    let mut proxy = start(&file).await;
    let field = [r#"shop="v2";token="$""#];
    write_secret(proxy.folder.path(), "another-one-another-one");
    assert_eq!(ask(&proxy, &field).await.text(), "v2");
    proxy.reload(&file).await.unwrap();
    assert_eq!(ask(&proxy, &field).await.text(), "v1");
    assert_eq!(ask(&proxy, &[r#"shop="v2";token="another-one-another-one""#]).await.text(), "v2");
    for bad in ["short", "two words of a secret"] {
        write_secret(proxy.folder.path(), bad);
        let problems = proxy.reload(&file).await.unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].title.ends_with("holds no secret"), "{problems:?}");
    }
    std::fs::remove_file(proxy.folder.path().join("secret")).unwrap();
    let problems = proxy.reload(&file).await.unwrap_err();
    assert!(problems[0].title.contains("cannot be read"), "{problems:?}");
    assert_eq!(ask(&proxy, &[r#"shop="v2";token="another-one-another-one""#]).await.text(), "v2");
}
