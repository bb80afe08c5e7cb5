//! What a watched folder tells, and when.

use std::{fs, os::unix::fs::symlink};

use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};

use super::*;

/// Far more than a change needs; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

struct Fixture {
    folder: TempDir,
    rx: mpsc::Receiver<Event>,
    status: Arc<WatchStatus>,
    task: JoinHandle<Result<(), WatchError>>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn service(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: None\n  ports: [{{port: {port}}}]\n"
    )
}

fn listeners(tx: mpsc::Sender<Event>) -> Listeners {
    Listeners { node_name: "n1".into(), tx, nodes: None }
}

fn watch_after(folder: TempDir, path: PathBuf, inherited: bool) -> Fixture {
    let (tx, rx) = mpsc::channel(16);
    let status = Arc::new(WatchStatus::new());
    let task = tokio::spawn(run(path, inherited, listeners(tx), Arc::clone(&status)));
    Fixture { folder, rx, status, task }
}

fn watch(folder: TempDir, path: PathBuf) -> Fixture {
    watch_after(folder, path, false)
}

fn start_after(files: &[(&str, &str)], inherited: bool) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().to_owned();
    watch_after(folder, path, inherited)
}

fn start(files: &[(&str, &str)]) -> Fixture {
    start_after(files, false)
}

impl Fixture {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn next(&mut self) -> Event {
        timeout(PATIENCE, self.rx.recv()).await.expect("no event in time").expect("the source ended")
    }

    /// Names and first ports of the next list of Services.
    async fn services(&mut self) -> Vec<(String, i32)> {
        loop {
            if let Event::ServicesListed(all) = self.next().await {
                return all.into_iter().map(|service| (service.name.name, service.ports[0].port)).collect();
            }
        }
    }

    async fn error(&self) -> String {
        for _ in 0..500 {
            if let Some(error) = self.status.sources()[0].error.clone() {
                return error;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("no error in the status");
    }

    async fn nothing_happens(&mut self) {
        timeout(Duration::from_millis(200), self.rx.recv()).await.expect_err("an event");
    }
}

fn list(expected: &[(&str, i32)]) -> Vec<(String, i32)> {
    expected.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect()
}

#[tokio::test]
async fn an_empty_folder_lists_nothing_of_every_kind_and_counts_as_listed() {
    let mut fixture = start(&[]);
    let mut events = vec![fixture.next().await, fixture.next().await, fixture.next().await];
    events.sort_by_key(|event| format!("{event:?}"));
    assert_eq!(events, [Event::Node(None), Event::ServicesListed(vec![]), Event::SlicesListed(vec![])]);
    sleep(Duration::from_millis(50)).await;
    assert!(fixture.status.all_listed());
    assert!(fixture.status.sources()[0].age.unwrap() < PATIENCE);
}

#[tokio::test]
async fn only_the_own_node_is_told() {
    let node = |name: &str| format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n");
    let mut fixture = start(&[("nodes.yaml", &format!("{}{}", node("n1"), node("n2")))]);
    assert!(matches!(fixture.next().await, Event::Node(Some(node)) if node.name == "n1"));
}

#[tokio::test]
async fn an_edit_in_place_a_replacement_a_new_file_and_a_deletion_are_each_told() {
    let mut fixture = start(&[("a.yaml", &service("a", 1))]);
    assert_eq!(fixture.services().await, list(&[("a", 1)]));
    fs::write(fixture.path("a.yaml"), service("a", 2)).unwrap();
    assert_eq!(fixture.services().await, list(&[("a", 2)]));
    fs::write(fixture.path("a.tmp"), service("a", 3)).unwrap();
    fs::rename(fixture.path("a.tmp"), fixture.path("a.yaml")).unwrap();
    assert_eq!(fixture.services().await, list(&[("a", 3)]));
    fs::write(fixture.path("b.yaml"), service("b", 4)).unwrap();
    assert_eq!(fixture.services().await, list(&[("a", 3), ("b", 4)]));
    fs::remove_file(fixture.path("a.yaml")).unwrap();
    assert_eq!(fixture.services().await, list(&[("b", 4)]));
}

#[tokio::test]
async fn a_change_that_changes_no_object_is_not_told() {
    let mut fixture = start(&[("a.yaml", &service("a", 1))]);
    fixture.services().await;
    fs::write(fixture.path("a.yaml"), format!("# a comment\n{}", service("a", 1))).unwrap();
    fs::write(fixture.path("notes.txt"), "x").unwrap();
    fixture.nothing_happens().await;
}

#[tokio::test]
async fn a_file_that_breaks_keeps_its_last_good_content_until_it_is_mended() {
    let mut fixture = start(&[("a.yaml", &service("a", 1)), ("b.yaml", &service("b", 1))]);
    assert_eq!(fixture.services().await, list(&[("a", 1), ("b", 1)]));
    fs::write(fixture.path("a.yaml"), "kind: Service\napiVersion: v1\n").unwrap();
    let error = fixture.error().await;
    assert!(error.contains("a.yaml:1: Service without a metadata.name"), "{error}");
    fs::write(fixture.path("b.yaml"), service("b", 2)).unwrap();
    assert_eq!(fixture.services().await, list(&[("a", 1), ("b", 2)]));
    fs::write(fixture.path("a.yaml"), service("a", 3)).unwrap();
    assert_eq!(fixture.services().await, list(&[("a", 3), ("b", 2)]));
    sleep(Duration::from_millis(50)).await;
    assert_eq!(fixture.status.sources()[0].error, None);
}

#[tokio::test]
async fn a_file_that_is_broken_from_the_start_gives_what_can_be_read_of_it() {
    let mut fixture = start(&[("a.yaml", &format!("{}---\n{{{{\n", service("a", 1)))]);
    assert_eq!(fixture.services().await, list(&[("a", 1)]));
    assert!(fixture.error().await.contains("a.yaml:9"), "{}", fixture.error().await);
}

/// Otherwise a restart with a broken file would remove the Services that are in it.
#[tokio::test]
async fn with_an_earlier_agent_s_services_nothing_is_told_until_every_file_could_be_read() {
    let broken = format!("{}---\n{{{{\n", service("a", 1));
    let mut fixture = start_after(&[("a.yaml", &broken), ("b.yaml", &service("b", 1))], true);
    assert!(fixture.error().await.contains("a.yaml:9"), "{}", fixture.error().await);
    fixture.nothing_happens().await;
    fs::write(fixture.path("b.yaml"), service("b", 2)).unwrap();
    fs::write(fixture.path("a.yaml"), "{{\n").unwrap();
    fixture.nothing_happens().await;
    assert!(fixture.status.sources().iter().all(|source| !source.listed));
    fs::write(fixture.path("a.yaml"), format!("{}{}", service("a", 1), service("c", 1))).unwrap();
    assert_eq!(fixture.services().await, list(&[("a", 1), ("b", 2), ("c", 1)]));
    // From then on a new file that is broken holds nothing up.
    fs::write(fixture.path("d.yaml"), format!("{}---\n{{{{\n", service("d", 1))).unwrap();
    assert_eq!(fixture.services().await, list(&[("a", 1), ("b", 2), ("c", 1), ("d", 1)]));
}

#[tokio::test]
async fn a_broken_file_that_is_taken_away_holds_nothing_up() {
    let mut fixture = start_after(&[("a.yaml", "{{\n"), ("b.yaml", &service("b", 1))], true);
    fixture.error().await;
    fixture.nothing_happens().await;
    fs::remove_file(fixture.path("a.yaml")).unwrap();
    assert_eq!(fixture.services().await, list(&[("b", 1)]));
}

#[tokio::test]
async fn a_file_emptied_before_it_is_written_does_not_take_its_objects_away() {
    let mut fixture = start(&[("a.yaml", &service("a", 1))]);
    fixture.services().await;
    fs::write(fixture.path("a.yaml"), "").unwrap();
    sleep(Duration::from_millis(120)).await;
    fs::write(fixture.path("a.yaml"), service("a", 2)).unwrap();
    assert_eq!(fixture.services().await, list(&[("a", 2)]));
}

#[tokio::test]
async fn a_file_that_stays_empty_is_believed() {
    let mut fixture = start(&[("a.yaml", &service("a", 1))]);
    fixture.services().await;
    fs::write(fixture.path("a.yaml"), "").unwrap();
    assert_eq!(fixture.services().await, list(&[]));
}

#[tokio::test]
async fn the_swap_of_a_config_map_volume_is_told_as_one_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (version, port) in [("..1", 1), ("..2", 2)] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("a.yaml"), service("a", port)).unwrap();
        fs::write(path(version).join("b.yaml"), service("b", port)).unwrap();
    }
    symlink("..1", path("..data")).unwrap();
    symlink("..data/a.yaml", path("a.yaml")).unwrap();
    symlink("..data/b.yaml", path("b.yaml")).unwrap();
    symlink("..2", path("..data_tmp")).unwrap();
    let root = folder.path().to_owned();
    let mut fixture = watch(folder, root);
    assert_eq!(fixture.services().await, list(&[("a", 1), ("b", 1)]));
    fs::rename(fixture.path("..data_tmp"), fixture.path("..data")).unwrap();
    assert_eq!(fixture.services().await, list(&[("a", 2), ("b", 2)]));
}

#[tokio::test]
async fn the_target_of_a_link_is_looked_at_although_inotify_does_not_see_it() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target");
    fs::write(&target, service("a", 1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    symlink(&target, folder.path().join("a.yaml")).unwrap();
    let root = folder.path().to_owned();
    let mut fixture = watch(folder, root);
    assert_eq!(fixture.services().await, list(&[("a", 1)]));
    fs::write(&target, service("a", 2)).unwrap();
    assert_eq!(fixture.services().await, list(&[("a", 2)]));
}

#[tokio::test]
async fn a_folder_that_goes_away_takes_nothing_with_it_and_is_read_again_when_it_is_back() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("manifests");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), service("a", 1)).unwrap();
    let mut fixture = watch(parent, folder.clone());
    fixture.services().await;
    fs::rename(&folder, fixture.path("away")).unwrap();
    let error = fixture.error().await;
    assert!(error.contains("cannot read manifests in"), "{error}");
    fixture.nothing_happens().await;
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), service("a", 2)).unwrap();
    assert_eq!(fixture.services().await, list(&[("a", 2)]));
}

#[tokio::test]
async fn one_file_can_be_watched_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, service("a", 1)).unwrap();
    let mut fixture = watch(folder, file.clone());
    fixture.services().await;
    fs::write(fixture.path("b.yaml"), service("b", 1)).unwrap();
    fs::write(&file, service("a", 2)).unwrap();
    assert_eq!(fixture.services().await, list(&[("a", 2)]));
}

#[tokio::test]
async fn all_nodes_are_published_where_somebody_wants_them() {
    let node = |name: &str| format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), node("n1") + &node("n2")).unwrap();
    let (tx, _rx) = mpsc::channel(16);
    let (sender, mut nodes) = tokio::sync::watch::channel(None);
    let told = Listeners { nodes: Some(sender), ..listeners(tx) };
    let task = tokio::spawn(run(folder.path().to_owned(), false, told, Arc::new(WatchStatus::new())));
    let mut names = async || {
        timeout(PATIENCE, nodes.changed()).await.unwrap().unwrap();
        nodes.borrow_and_update().as_ref().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["n1", "n2"]);
    fs::write(folder.path().join("b.yaml"), node("n3")).unwrap();
    assert_eq!(names().await, ["n1", "n2", "n3"]);
    task.abort();
}

#[tokio::test]
async fn it_ends_when_nobody_listens_and_fails_at_once_without_a_folder() {
    let mut fixture = start(&[]);
    fixture.next().await;
    fixture.rx.close();
    while fixture.rx.recv().await.is_some() {}
    let (tx, _rx) = mpsc::channel(1);
    let status = Arc::new(WatchStatus::new());
    let error =
        run("/nonexistent/manifests".into(), false, listeners(tx), status).await.unwrap_err().to_string();
    assert!(error.contains("/nonexistent/manifests"), "{error}");
    timeout(PATIENCE, &mut fixture.task).await.unwrap().unwrap().unwrap();
}
