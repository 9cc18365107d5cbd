//! Versions and deployments on the file: what may be changed, how it is written, and what is taken back.

use std::path::PathBuf;

use gradual::config::Config;
use gradual::control::release::{
    Change, Done, Draft, Kind, Refusal, Request, Told, Upload, Who, draft, perform, spread, tagged, version,
};
use gradual::model::name::{VersionId, WorkerName};
use gradual::model::share::Share;
use gradual::store::journal::{Entry, Journal};
use tempfile::TempDir;

/// A file in a folder of its own.
struct Desk {
    folder: TempDir,
}

/// A worker `shop` with versions of these ids, migrations and percentages; without a percentage one is not deployed.
fn desk(versions: &[(&str, Option<&str>, Option<&str>)]) -> Desk {
    let mut text =
        "# mine\n[[listener]]\naddress = \"127.0.0.1:0\"\n\n[[worker]]\nname = \"shop\"\n".to_owned();
    for (id, migration, _) in versions {
        let migration = migration.map_or(String::new(), |migration| format!("migration = \"{migration}\"\n"));
        text += &format!(
            "\n[[worker.version]]\nid = \"{id}\"\ntag = \"tag-{id}\"\n{migration}upstreams = [\"http://127.0.0.1:9\"]\n"
        );
    }
    text += "\n[worker.deployment] # split\nversions = [\n";
    for (id, _, percentage) in versions {
        if let Some(percentage) = percentage {
            text += &format!("  {{ version_id = \"{id}\", percentage = {percentage} }},\n");
        }
    }
    Desk::of(&(text + "]\n"))
}

impl Desk {
    fn of(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("gradual.toml"), text).unwrap();
        Self { folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("gradual.toml")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap()
    }

    fn config(&self) -> Config {
        gradual::config::parse("gradual.toml", &self.text(), self.folder.path()).unwrap().0
    }

    fn draft(&self, change: Change) -> Result<Draft, Refusal> {
        draft(&self.file(), &request(change))
    }

    fn refused(&self, change: Change) -> Refusal {
        let before = self.text();
        let refusal = self.draft(change).unwrap_err();
        assert_eq!(self.text(), before);
        refusal
    }

    async fn perform(&self, change: Change, told: Told) -> Result<Done, Refusal> {
        perform(&self.file(), &request(change), async || told).await
    }

    async fn done(&self, change: Change) -> Done {
        self.perform(change, Told::Serves { generation: 2 }).await.unwrap()
    }

    /// The active split, as the file has it.
    fn split(&self) -> Vec<(String, String)> {
        let config = self.config();
        let deployment = &config.workers[0].policy.deployment;
        let ids = deployment.versions.iter().map(ToString::to_string);
        ids.zip(deployment.ring.shares().iter().map(ToString::to_string)).collect()
    }

    /// Notes the active deployment as a running proxy would.
    fn note(&self, generation: u64) {
        let config = self.config();
        let entry = Entry::of(&config.workers[0], "2026-11-20T12:00:00Z", generation);
        Journal::of(&config, &self.file()).append(&[entry]).unwrap();
    }
}

fn request(change: Change) -> Request {
    let who = Who { author: Some("ana".to_owned()), source: "cli" };
    Request { worker: WorkerName::new("shop").unwrap(), change, who, base: None, seen: None, live: None }
}

fn id(text: &str) -> VersionId {
    VersionId::new(text).unwrap()
}

fn share(text: &str) -> Share {
    Share::parse(text).unwrap()
}

fn split(parts: &[(&str, &str)]) -> Change {
    let versions = parts.iter().map(|(version, percentage)| (id(version), share(percentage))).collect();
    Change::Split { versions, message: Some("canary".to_owned()) }
}

fn upload(migration: Option<&str>) -> Upload {
    Upload {
        upstreams: vec!["http://127.0.0.1:3003".to_owned()],
        tag: Some("v3".to_owned()),
        message: Some("carts".to_owned()),
        migration: migration.map(str::to_owned),
    }
}

fn rollback(version: Option<&str>) -> Change {
    Change::RollBack { version: version.map(id), message: None }
}

fn promote(version: &str) -> Change {
    Change::Promote { version: id(version), message: None }
}

#[tokio::test]
async fn an_uploaded_version_is_in_the_file_with_a_new_uuid_and_reaches_nobody() {
    let desk = desk(&[("v1", None, Some("100"))]);
    let done = desk.done(Change::Upload(upload(None))).await;
    let new = done.draft.version.unwrap();
    assert!(new.id.is_uuid() && done.draft.plan.is_none());
    let config = desk.config();
    let metadata = &config.workers[0].versions[1].metadata;
    assert_eq!((&metadata.id, metadata.message.as_deref()), (&new.id, Some("carts")));
    assert_eq!(metadata.tag.as_ref().map(|tag| tag.as_str()), Some("v3"));
    assert!(metadata.created_on.is_some());
    assert_eq!(desk.split(), [("v1".to_owned(), "100".to_owned())]);
    assert!(desk.text().starts_with("# mine\n") && desk.text().contains("[worker.deployment] # split\n"));
}

#[tokio::test]
async fn a_split_keeps_the_previous_order_and_gets_arcs_where_order_alone_would_move_bystanders() {
    let desk = desk(&[("v1", None, Some("10")), ("v2", None, Some("10")), ("v3", None, Some("80"))]);
    let done = desk.done(split(&[("v3", "70"), ("v2", "10"), ("v1", "20")])).await;
    let plan = done.draft.plan.unwrap();
    assert_eq!((plan.moved, plan.least), (10_000, 10_000));
    let expected =
        [("v1", "20"), ("v2", "10"), ("v3", "70")].map(|(id, share)| (id.to_owned(), share.to_owned()));
    assert_eq!(desk.split(), expected);
    let config = desk.config();
    let deployment = &config.workers[0].policy.deployment;
    assert_eq!(deployment.ring.arcs().len(), 4);
    assert_eq!(deployment.author.as_deref(), Some("ana"));
    assert_eq!(deployment.source.as_deref(), Some("cli"));
    assert_eq!(deployment.message.as_deref(), Some("canary"));
    assert_eq!(Some(&deployment.id), done.draft.deployment.as_ref().map(|one| &one.id));
    assert_eq!(done.draft.warnings.len(), 1, "three versions");
    // And back: two versions need no arcs, and no warning.
    let done = desk.done(split(&[("v1", "50"), ("v2", "50")])).await;
    assert!(done.draft.warnings.is_empty());
}

#[test]
fn a_draft_writes_nothing() {
    let desk = desk(&[("v1", None, Some("90")), ("v2", None, Some("10"))]);
    let before = desk.text();
    let draft = desk.draft(split(&[("v1", "50"), ("v2", "50")])).unwrap();
    assert!(draft.text != before && desk.text() == before);
    let left = std::fs::read_dir(desk.folder.path()).unwrap().count();
    assert_eq!(left, 1);
}

#[test]
fn what_does_not_total_100_is_listed_twice_or_unknown_is_refused_with_what_to_do() {
    let desk = desk(&[("first-1", None, Some("90")), ("second-2", None, Some("10"))]);
    for (change, kind, words) in [
        (
            split(&[("first-1", "50"), ("second-2", "40")]),
            Kind::BadTotal,
            "add up to 90, but must total exactly 100",
        ),
        (split(&[]), Kind::BadTotal, "at least one version"),
        (split(&[("first-1", "50"), ("first-1", "50")]), Kind::RepeatedVersion, "first-1 is listed twice"),
        (split(&[("first-7", "100")]), Kind::UnknownVersion, "no version `first-7`"),
        (promote("tag-second-2"), Kind::UnknownVersion, "no version `tag-second-2`"),
        (rollback(Some("nothing")), Kind::UnknownVersion, "no version `nothing`"),
        (rollback(None), Kind::NoPreviousDeployment, "no earlier deployment of worker shop"),
    ] {
        let refusal = desk.refused(change);
        assert_eq!(refusal.kind(), kind, "{refusal}");
        assert!(refusal.to_string().contains(words), "{refusal}");
    }
    let near = desk.refused(split(&[("first-7", "100")]));
    assert_eq!(near.help(), Some("did you mean `first-1`?"));
    let tag = desk.refused(promote("tag-second-2"));
    assert!(tag.help().unwrap().contains("the tag of second-2"), "{tag}");
}

#[test]
fn ids_may_be_cut_short_where_only_one_begins_so_and_tags_name_one_version() {
    let desk = desk(&[("abcd-1", None, Some("100")), ("abcd-2", None, None), ("abce-3", None, None)]);
    let config = desk.config();
    let worker = &config.workers[0];
    let found =
        |text: &str| version(worker, text).map(|one| one.metadata.id.to_string()).map_err(|one| one.kind());
    assert_eq!(found("abce").as_deref(), Ok("abce-3"));
    assert_eq!(found("abcd-2").as_deref(), Ok("abcd-2"));
    assert_eq!(found("abcd"), Err(Kind::AmbiguousVersion));
    assert_eq!(found("abc"), Err(Kind::UnknownVersion));
    assert_eq!(found(""), Err(Kind::UnknownVersion));
    assert_eq!(tagged(worker, "tag-abcd-2").unwrap().metadata.id.as_str(), "abcd-2");
    assert_eq!(tagged(worker, "tag-abcd").unwrap_err().kind(), Kind::UnknownVersion);
    let twice = Desk::of(&desk.text().replace("tag-abcd-2", "tag-abcd-1"));
    let config = twice.config();
    let refusal = tagged(&config.workers[0], "tag-abcd-1").unwrap_err();
    assert_eq!(refusal.kind(), Kind::AmbiguousVersion);
    assert!(refusal.help().unwrap().ends_with("newest first: `abcd-2`, `abcd-1`"), "{:?}", refusal.help());
}

#[test]
fn versions_without_a_percentage_share_what_is_left_to_the_thousandth() {
    let of = |specs: &[(&str, Option<&str>)]| {
        let specs: Vec<_> = specs.iter().map(|(version, one)| (id(version), one.map(share))).collect();
        let shares = spread(&specs).unwrap();
        shares.iter().map(|(version, share)| format!("{version} {share}")).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(of(&[("a", None)]), "a 100");
    assert_eq!(of(&[("a", None), ("b", None), ("c", None)]), "a 33.333, b 33.334, c 33.333");
    assert_eq!(of(&[("a", Some("12.5")), ("b", None)]), "a 12.5, b 87.5");
    assert_eq!(of(&[("a", Some("100")), ("b", None)]), "a 100, b 0");
    assert_eq!(of(&[("a", Some("10")), ("b", None), ("a", Some("20"))]), "a 20, b 80");
    assert_eq!(spread(&[]).unwrap_err().kind(), Kind::BadTotal);
}

#[test]
fn only_the_last_hundred_uploaded_versions_and_those_that_serve_can_be_deployed() {
    let ids: Vec<_> = (0..103).map(|number| format!("v{number:03}")).collect();
    let versions: Vec<_> =
        ids.iter().enumerate().map(|(at, id)| (id.as_str(), None, (at == 0).then_some("100"))).collect();
    let desk = desk(&versions);
    let refusal = desk.refused(split(&[("v002", "10"), ("v102", "90")]));
    assert_eq!(refusal.kind(), Kind::NotDeployable);
    assert!(refusal.to_string().contains("only the last 100 uploaded versions"), "{refusal}");
    assert!(desk.draft(split(&[("v003", "10"), ("v102", "90")])).is_ok());
    assert!(desk.draft(split(&[("v000", "90"), ("v102", "10")])).is_ok(), "it serves");
    let parts: Vec<_> =
        ids.iter().skip(2).map(|id| (id.as_str(), if id == "v002" { "100" } else { "0" })).collect();
    assert_eq!(parts.len(), 101);
    assert_eq!(desk.refused(split(&parts)).kind(), Kind::NotDeployable);
}

#[tokio::test]
async fn a_new_migration_takes_over_at_100_percent_by_deploy_only_and_nothing_goes_back_across_it() {
    let desk = desk(&[("v1", None, Some("100")), ("v2", None, None)]);
    desk.note(1);
    let new = desk.done(Change::Upload(upload(Some("m2")))).await.draft.version.unwrap().id;
    let kind = |change| desk.refused(change).kind();
    assert_eq!(kind(split(&[(new.as_str(), "10"), ("v1", "90")])), Kind::MigrationMixed);
    assert_eq!(kind(split(&[(new.as_str(), "100")])), Kind::MigrationNeedsDeploy);
    assert_eq!(kind(rollback(Some(new.as_str()))), Kind::MigrationNeedsDeploy);
    desk.done(promote(new.as_str())).await;
    desk.note(2);
    for change in [rollback(None), rollback(Some("v1")), split(&[("v2", "100")]), promote("v1")] {
        let refusal = desk.refused(change);
        assert_eq!(refusal.kind(), Kind::MigrationBack, "{refusal}");
        assert!(refusal.help().is_some_and(|help| help.contains("upload its code anew")));
    }
    // What is uploaded now is for the present data, unless it says otherwise.
    let same = desk.done(Change::Upload(upload(None))).await.draft.version.unwrap();
    assert_eq!(same.migration.as_ref().map(|tag| tag.as_str()), Some("m2"));
    desk.done(split(&[(new.as_str(), "50"), (same.id.as_str(), "50")])).await;
    let shipped = desk.done(Change::Ship { upload: upload(Some("m3")), message: None }).await;
    let id = shipped.draft.version.unwrap().id;
    assert_eq!(desk.split(), [(id.to_string(), "100".to_owned())]);
}

#[tokio::test]
async fn a_rollback_goes_to_the_newest_earlier_deployment_that_gave_another_version_everything() {
    let desk = desk(&[("v1", None, Some("100")), ("v2", None, None), ("v3", None, None)]);
    desk.note(1);
    for (generation, change) in [(2, split(&[("v2", "100")])), (3, split(&[("v2", "50"), ("v3", "50")]))] {
        desk.done(change).await;
        desk.note(generation);
    }
    let done = desk.done(rollback(None)).await;
    assert_eq!(done.draft.deployment.unwrap().message.as_deref(), Some("Rollback"));
    assert_eq!(desk.split(), [("v2".to_owned(), "100".to_owned())]);
    desk.note(4);
    // Not to where it is already.
    desk.done(rollback(None)).await;
    assert_eq!(desk.split(), [("v1".to_owned(), "100".to_owned())]);
}

#[tokio::test]
async fn what_the_proxy_refuses_is_taken_back_unless_somebody_else_wrote_meanwhile() {
    let desk = desk(&[("v1", None, Some("100")), ("v2", None, None)]);
    let before = desk.text();
    let refused = || Told::Refused { report: "error: the certificate is gone".to_owned() };
    let refusal = desk.perform(split(&[("v2", "100")]), refused()).await.unwrap_err();
    assert_eq!(refusal.kind(), Kind::RefusedByProxy);
    assert!(refusal.to_string().contains("the certificate is gone"), "{refusal}");
    assert_eq!(desk.text(), before);
    let file = desk.file();
    let tell = async || {
        std::fs::write(&file, "# theirs\n").unwrap();
        refused()
    };
    let refusal = perform(&desk.file(), &request(split(&[("v2", "100")])), tell).await.unwrap_err();
    assert!(refusal.to_string().contains("somebody else has changed it meanwhile"), "{refusal}");
    assert_eq!(desk.text(), "# theirs\n");
}

#[tokio::test]
async fn a_change_decided_upon_another_deployment_is_refused() {
    let desk = desk(&[("v1", None, Some("100")), ("v2", None, None)]);
    let base = desk.config().workers[0].policy.deployment.id.clone();
    let with = |base: &str| Request { base: Some(base.to_owned()), ..request(split(&[("v2", "100")])) };
    assert!(draft(&desk.file(), &with(&base)).is_ok());
    desk.done(split(&[("v1", "50"), ("v2", "50")])).await;
    let refusal = draft(&desk.file(), &with(&base)).unwrap_err();
    assert_eq!(refusal.kind(), Kind::DeploymentChanged);
}

#[test]
fn a_version_that_would_not_be_good_is_refused_in_the_words_of_the_file() {
    let desk = desk(&[("v1", None, Some("100"))]);
    let with = |change: fn(&mut Upload)| {
        let mut one = upload(None);
        change(&mut one);
        desk.refused(Change::Upload(one))
    };
    let refusal = with(|one| one.upstreams = vec!["ftp://x".to_owned()]);
    assert_eq!(refusal.kind(), Kind::BadVersion);
    assert!(refusal.report().is_some(), "{refusal}");
    assert_eq!(with(|one| one.upstreams.clear()).kind(), Kind::BadVersion);
    assert_eq!(with(|one| one.tag = Some("\u{e9}".to_owned())).kind(), Kind::BadVersion);
    assert_eq!(with(|one| one.message = Some("x".repeat(1001))).kind(), Kind::BadMessage);
    let broken = Desk::of("[[listener]]\n");
    let refusal = broken.refused(Change::Upload(upload(None)));
    assert_eq!(refusal.kind(), Kind::BadFile);
    assert!(refusal.report().is_some_and(|report| report.has_errors()));
}

#[tokio::test]
async fn a_hand_edit_that_was_not_taken_over_yet_does_not_count_as_what_keys_move_from() {
    let desk = desk(&[("v1", None, Some("80")), ("v2", None, Some("20"))]);
    let live = desk.config().workers[0].policy.deployment.clone();
    let swapped = desk.text().replace("\"v1\", percentage = 80", "\"v1\", percentage = 10");
    std::fs::write(desk.file(), swapped.replace("\"v2\", percentage = 20", "\"v2\", percentage = 90"))
        .unwrap();
    let upon_live = Request { live: Some(live), ..request(split(&[("v1", "70"), ("v2", "30")])) };
    let draft = draft(&desk.file(), &upon_live).unwrap();
    assert_eq!(draft.plan.map(|plan| (plan.moved, plan.least)), Some((10_000, 10_000)));
    assert!(draft.warnings.iter().any(|one| one.contains("was not taken over yet")), "{:?}", draft.warnings);
}

#[test]
fn a_deployment_that_was_edited_by_hand_under_its_id_is_not_the_one_that_was_seen() {
    let desk = desk(&[("v1", None, Some("80")), ("v2", None, Some("20"))]);
    let with_id = desk.text().replace("[worker.deployment] # split\n", "[worker.deployment]\nid = \"d1\"\n");
    std::fs::write(desk.file(), &with_id).unwrap();
    let seen = desk.config().workers[0].policy.deployment.clone();
    let upon = || Request { seen: Some(seen.clone()), ..request(split(&[("v2", "100")])) };
    assert!(draft(&desk.file(), &upon()).is_ok());
    std::fs::write(desk.file(), with_id.replace("= 80", "= 70").replace("= 20", "= 30")).unwrap();
    assert_eq!(draft(&desk.file(), &upon()).unwrap_err().kind(), Kind::DeploymentChanged);
}

#[tokio::test]
async fn there_is_no_way_back_across_a_migration_to_a_version_that_was_uploaded_after_it() {
    let desk = desk(&[("v1", None, Some("100"))]);
    let new = desk.done(Change::Upload(upload(Some("m1")))).await.draft.version.unwrap().id;
    let late = desk.done(Change::Upload(upload(None))).await.draft.version.unwrap();
    assert_eq!(late.migration, None);
    desk.done(promote(new.as_str())).await;
    for change in
        [promote(late.id.as_str()), rollback(Some(late.id.as_str())), split(&[(late.id.as_str(), "100")])]
    {
        assert_eq!(desk.refused(change).kind(), Kind::MigrationBack);
    }
}

#[test]
fn which_migration_is_newer_is_told_by_when_versions_were_made_where_all_say_so() {
    let mut text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[worker]]\nname = \"shop\"\n".to_owned();
    for (id, day, migration) in [("v3", 3, "m2"), ("v2", 2, "m1"), ("v1", 1, "m1")] {
        text += &format!(
            "[[worker.version]]\nid = \"{id}\"\ncreated_on = 2026-11-0{day}T12:00:00Z\nmigration = \"{migration}\"\n\
             upstreams = [\"http://127.0.0.1:9\"]\n"
        );
    }
    let desk =
        Desk::of(&(text + "[worker.deployment]\nversions = [{ version_id = \"v2\", percentage = 100 }]\n"));
    assert!(desk.draft(promote("v3")).is_ok(), "the newest version is the first in the file");
    assert_eq!(desk.refused(split(&[("v3", "100")])).kind(), Kind::MigrationNeedsDeploy);
}

#[tokio::test]
async fn one_file_has_one_lock_under_all_of_its_names() {
    let desk = desk(&[("v1", None, Some("100")), ("v2", None, None)]);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("other-name.toml");
    std::os::unix::fs::symlink(desk.file(), &link).unwrap();
    perform(&link, &request(split(&[("v2", "100")])), async || Told::Serves { generation: 2 }).await.unwrap();
    assert!(desk.folder.path().join("gradual.lock").exists());
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1, "nothing lies beside the link");
    assert!(link.is_symlink() && desk.split() == [("v2".to_owned(), "100".to_owned())]);
}

#[tokio::test]
async fn a_link_that_is_switched_while_the_lock_is_waited_for_leads_to_the_file_that_is_changed() {
    let (one, two) = (desk(&[("v1", None, Some("100"))]), desk(&[("v1", None, Some("100"))]));
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("gradual.toml");
    std::os::unix::fs::symlink(one.file(), &link).unwrap();
    let lock = gradual::store::write::lock(one.folder.path(), "gradual", std::time::Duration::ZERO).unwrap();
    let (before, file) = (one.text(), link.clone());
    let change = tokio::spawn(async move {
        perform(&file, &request(Change::Upload(upload(None))), async || Told::Serves { generation: 2 }).await
    });
    // The lock's file has the number of who waits nowhere: that somebody waits shows only in that nothing has happened.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let new = folder.path().join("new");
    std::os::unix::fs::symlink(two.file(), &new).unwrap();
    std::fs::rename(&new, &link).unwrap();
    drop(lock);
    change.await.unwrap().unwrap();
    assert_eq!(one.text(), before);
    assert_eq!(two.config().workers[0].versions.len(), 2);
}

#[test]
fn what_would_be_longer_than_a_file_may_be_is_refused_and_so_is_what_is_no_file() {
    let desk = desk(&[("v1", None, Some("100"))]);
    let room = usize::try_from(gradual::store::file::MAX_LENGTH).unwrap() - desk.text().len() - 3;
    std::fs::write(desk.file(), format!("#{}\n{}", "x".repeat(room), desk.text())).unwrap();
    let refusal = desk.refused(Change::Upload(upload(None)));
    assert!(refusal.to_string().contains("would be longer than 4 MiB"), "{refusal}");
    let pipe = desk.folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let refusal = draft(&pipe, &request(Change::Upload(upload(None)))).unwrap_err();
    assert_eq!(refusal.kind(), Kind::ManagedElsewhere);
}
