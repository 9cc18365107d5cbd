//! The access log, from records to files and pipes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gradual::config::AccessTarget;
use gradual::export::access::{AccessLog, Outcome, Record, Sink, VersionRef};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Long enough for any machine; nothing waits so long unless it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request as it is recorded.
pub(crate) fn record<'a>() -> Record<'a> {
    Record {
        timestamp_ms: 1_795_233_600_123,
        outcome: Outcome::Ok,
        worker: Some("shop"),
        version: Some(VersionRef { id: "v1", message: None, tag: Some("stable") }),
        scheme: "https",
        authority: b"example.com",
        target: "/cart?a=1",
        method: "GET",
        status: 200,
        ray: 0x0123_4567_89ab_cdef,
        wall_time: Duration::from_micros(12_345),
        reason: Some("key"),
        overridden: None,
        upstream: Some("http://127.0.0.1:3001"),
        error: None,
        client: Some(IpAddr::from([192, 0, 2, 1])),
        request_bytes: 0,
        response_bytes: 1024,
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn file(path: &Path) -> AccessTarget {
    AccessTarget::File(path.to_owned())
}

/// Writes records and waits until they are in the file.
fn write_all(log: &AccessLog, sink: &Sink, records: &[Record<'_>]) {
    for record in records {
        sink.write(record);
    }
    sink.flush();
    log.flush(PATIENCE);
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn logged(record: &Record<'_>) -> Value {
    let folder = folder();
    let path = folder.path().join("access.log");
    let log = AccessLog::open(&file(&path)).unwrap();
    write_all(&log, &log.sink(), &[*record]);
    let mut lines = lines(&path);
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

#[test]
fn a_line_has_logpushs_names_and_ours() {
    let expected = json!({
        "EventTimestampMs": 1_795_233_600_123_u64, "EventType": "fetch", "Outcome": "ok", "ScriptName": "shop",
        "ScriptVersion": { "id": "v1", "tag": "stable" },
        "Event": {
            "RayID": "0123456789abcdef",
            "Request": { "URL": "https://example.com/cart?a=1", "Method": "GET" },
            "Response": { "Status": 200 },
        },
        "WallTimeMs": 12.345, "Reason": "key", "Override": null, "Upstream": "http://127.0.0.1:3001",
        "Error": null, "ClientIP": "192.0.2.1", "RequestBytes": 0, "ResponseBytes": 1024,
    });
    assert_eq!(logged(&record()), expected);
}

#[test]
fn a_request_without_worker_or_version_has_null_in_their_place() {
    let nothing =
        Record { worker: None, version: None, reason: None, upstream: None, client: None, ..record() };
    let line = logged(&Record { outcome: Outcome::Exception, error: Some("connect"), ..nothing });
    for member in ["ScriptName", "ScriptVersion", "Reason", "Upstream", "ClientIP"] {
        assert_eq!(line.get(member), Some(&Value::Null), "{member}");
    }
    assert_eq!((&line["Outcome"], &line["Error"]), (&json!("exception"), &json!("connect")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_record_is_one_line_of_valid_json_whatever_a_client_sends(
        records in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), any::<String>(), any::<String>()), 1..8),
        (status, bytes, wall) in (any::<u16>(), any::<u64>(), any::<u64>()),
    ) {
        let folder = folder();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&file(&path)).unwrap();
        let records: Vec<_> = records.iter().map(|(authority, target, method)| Record {
            authority, target, method, status,
            version: Some(VersionRef { id: method, message: Some(target), tag: None }),
            ray: bytes, request_bytes: bytes, wall_time: Duration::from_nanos(wall), error: Some(target),
            ..record()
        }).collect();
        write_all(&log, &log.sink(), &records);
        let lines = lines(&path);
        prop_assert_eq!(lines.len(), records.len());
        for (line, record) in lines.iter().zip(&records) {
            let authority = String::from_utf8_lossy(record.authority);
            prop_assert_eq!(&line["Event"]["Request"]["URL"], &json!(format!("https://{authority}{}", record.target)));
            prop_assert_eq!(&line["Event"]["Request"]["Method"], record.method);
            prop_assert_eq!(&line["ScriptVersion"]["message"], record.target);
            prop_assert_eq!(&line["RequestBytes"], bytes);
        }
    }
}

#[test]
fn a_file_is_made_with_mode_0640_and_appended_to() {
    let folder = folder();
    let path = folder.path().join("access.log");
    for _ in 0..2 {
        let log = AccessLog::open(&file(&path)).unwrap();
        write_all(&log, &log.sink(), &[record()]);
    }
    assert_eq!(lines(&path).len(), 2);
    // The umask may take away more.
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777 & !0o640, 0);
}

#[test]
fn a_renamed_file_is_left_behind_at_reopening_and_no_line_is_lost() {
    let folder = folder();
    let (path, rotated) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let log = AccessLog::open(&file(&path)).unwrap();
    let sink = log.sink();
    write_all(&log, &sink, &[record(), record()]);
    fs::rename(&path, &rotated).unwrap();
    write_all(&log, &sink, &[record()]);
    log.reopen(&file(&path)).unwrap();
    write_all(&log, &sink, &[record()]);
    assert_eq!((lines(&rotated).len(), lines(&path).len(), log.dropped()), (3, 1, 0));
}

#[test]
fn a_target_is_checked_without_making_or_changing_anything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    for good in [AccessTarget::Off, AccessTarget::Stdout, file(&path), file(Path::new("/dev/null"))] {
        AccessLog::check(&good).unwrap();
    }
    assert!(!path.exists());
    fs::write(&path, "kept").unwrap();
    AccessLog::check(&file(&path)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"kept");
    for bad in [folder.path(), &folder.path().join("missing/a.log"), &path.join("a.log")] {
        assert!(AccessLog::check(&file(bad)).is_err(), "{}", bad.display());
    }
}

#[test]
fn a_target_that_cannot_be_opened_is_an_error_and_the_log_goes_on_where_it_was() {
    let folder = folder();
    let path = folder.path().join("access.log");
    let missing = file(&folder.path().join("missing/access.log"));
    assert!(AccessLog::open(&missing).is_err());
    assert!(AccessLog::open(&file(folder.path())).is_err());
    let log = AccessLog::open(&file(&path)).unwrap();
    assert!(log.reopen(&missing).is_err());
    write_all(&log, &log.sink(), &[record()]);
    assert_eq!(lines(&path).len(), 1);
}

#[test]
fn a_log_that_is_off_writes_nothing_until_a_reload_switches_existing_sinks_on() {
    let folder = folder();
    let path = folder.path().join("access.log");
    let log = AccessLog::open(&AccessTarget::Off).unwrap();
    let sink = log.sink();
    assert!(!sink.is_on() && !sink.write(&record()));
    log.reopen(&file(&path)).unwrap();
    assert!(sink.is_on());
    write_all(&log, &sink, &[record()]);
    log.reopen(&AccessTarget::Off).unwrap();
    assert!(!sink.is_on());
    write_all(&log, &sink, &[record()]);
    log.reopen(&file(&path)).unwrap();
    write_all(&log, &sink, &[record()]);
    assert_eq!((lines(&path).len(), log.dropped()), (2, 0));
}

#[test]
fn only_the_first_line_in_a_buffer_asks_for_a_flush() {
    let folder = folder();
    let log = AccessLog::open(&file(&folder.path().join("access.log"))).unwrap();
    let sink = log.sink();
    assert_eq!([sink.write(&record()), sink.write(&record())], [true, false]);
    sink.flush();
    assert!(sink.write(&record()));
}

#[test]
fn a_dropped_sink_hands_its_lines_over() {
    let folder = folder();
    let path = folder.path().join("access.log");
    let log = AccessLog::open(&file(&path)).unwrap();
    let sink = log.sink();
    std::thread::spawn(move || sink.write(&record())).join().unwrap();
    log.flush(PATIENCE);
    assert_eq!(lines(&path).len(), 1);
}

#[test]
fn a_full_disk_drops_lines_counts_them_and_goes_on_after_reopening() {
    let folder = folder();
    let path = folder.path().join("access.log");
    let log = AccessLog::open(&file(Path::new("/dev/full"))).unwrap();
    let sink = log.sink();
    write_all(&log, &sink, &[record(), record()]);
    assert_eq!(log.dropped(), 2);
    log.reopen(&file(&path)).unwrap();
    write_all(&log, &sink, &[record()]);
    assert_eq!((lines(&path).len(), log.dropped()), (1, 2));
}

fn fifo(folder: &Path, name: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn a_reader_that_stalls_delays_nobody_and_every_line_is_either_read_or_counted_as_dropped() {
    const LINES: u64 = 30_000;
    let folder = folder();
    let path = fifo(folder.path(), "access.fifo");
    let log = AccessLog::open(&file(&path)).unwrap();
    let sink = log.sink();
    for _ in 0..LINES {
        sink.write(&record());
    }
    sink.flush();
    // Nothing has read yet: the pipe, the writer's hands and the queue are full, and yet we are here.
    let dropped = log.dropped();
    assert!(dropped > 0 && dropped < LINES);
    log.flush(Duration::ZERO);
    log.reopen(&file(&fifo(folder.path(), "other.fifo"))).unwrap();
    log.reopen(&file(&path)).unwrap();
    let reader = BufReader::new(fs::File::open(&path).unwrap());
    let kept = usize::try_from(LINES - dropped).unwrap();
    for line in reader.lines().take(kept) {
        serde_json::from_str::<Value>(&line.unwrap()).unwrap();
    }
    log.flush(PATIENCE);
    assert_eq!(log.dropped(), dropped);
}
