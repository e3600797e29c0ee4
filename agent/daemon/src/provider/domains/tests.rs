#![allow(clippy::unwrap_used)]

use ipsx_tunnel_core::Tier;

use super::*;

/// A file of that name with these lines.
fn file(folder: &Path, name: &str, lines: &str) -> DomainFile {
    let path = folder.join(name);
    fs::write(&path, lines).unwrap();
    path.to_str().unwrap().parse().unwrap()
}

fn denied(policy: &ExitPolicy, name: &str) -> Option<String> {
    let matcher = policy.compile(&[]);
    matcher.denied_category(name).map(str::to_owned)
}

#[test]
fn a_category_is_named_or_the_name_of_the_file() {
    let read = |text: &str| text.parse::<DomainFile>().unwrap();
    assert_eq!(read("/lists/gambling.txt").category, "gambling");
    let named = read("bets=/lists/a=b.txt");
    assert_eq!(named.category, "bets");
    assert_eq!(named.path, Path::new("/lists/a=b.txt"));
    assert_eq!(read("/lists/a=b.txt").category, "a=b");
    assert!("".parse::<DomainFile>().is_err());
    assert!("=/lists/x.txt".parse::<DomainFile>().is_err());
}

#[test]
fn files_are_read_into_a_policy_or_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ads = file(
        folder.path(),
        "ads.txt",
        "ads.example\n# more\n0.0.0.0 b.example\n",
    );
    let mine = file(folder.path(), "mine.txt", "good.ads.example\n");
    let mut policy = ExitPolicy::new(Tier::Web);
    let mut files = DomainFiles::new(vec![mine], vec![ads.clone()]);
    files.read_into(&mut policy).unwrap();
    assert_eq!(denied(&policy, "x.ads.example").as_deref(), Some("ads"));
    assert_eq!(denied(&policy, "good.ads.example"), None);

    let before = policy.clone();
    for (content, expected) in [
        (
            "ok.example\n<html>\n",
            "ads.txt line 2: '<html>' is no domain",
        ),
        ("# nothing\n", "names no domain"),
    ] {
        fs::write(&ads.path, content).unwrap();
        let error = files.read_into(&mut policy).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(policy, before);
    }
    fs::remove_file(&ads.path).unwrap();
    let error = files.read_into(&mut policy).unwrap_err().to_string();
    assert!(error.contains("can't be read"), "{error}");
    assert_eq!(policy, before);
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_taken_up_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let ads = file(folder.path(), "ads.txt", "ads.example\n");
    let mut policy = ExitPolicy::new(Tier::Web);
    let mut files = DomainFiles::new(Vec::new(), vec![ads.clone()]);
    files.read_into(&mut policy).unwrap();
    let (told, mut happened) = mpsc::unbounded_channel();
    let watching = tokio::spawn(files.watch(policy.clone(), told));

    fs::write(&ads.path, "ads.example\nmore.example\n").unwrap();
    let Some(Happening::Policy(changed)) = happened.recv().await else {
        panic!("no new policy");
    };
    assert_eq!(denied(&changed, "more.example").as_deref(), Some("ads"));
    assert_ne!(changed.canonical_bytes(), policy.canonical_bytes());

    fs::write(&ads.path, "no domain").unwrap();
    let Some(Happening::Tell(ProviderEvent::Warning { text })) = happened.recv().await else {
        panic!("no warning");
    };
    assert!(text.contains("ads.txt line 1"), "{text}");

    // The same domains in another order are no change.
    fs::write(&ads.path, "more.example\nads.example # as before\n").unwrap();
    tokio::time::sleep(LOOK * 10).await;
    assert!(happened.try_recv().is_err());
    fs::write(&ads.path, "ads.example\n").unwrap();
    assert!(matches!(happened.recv().await, Some(Happening::Policy(_))));
    watching.abort();
}
