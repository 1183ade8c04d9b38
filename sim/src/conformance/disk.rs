//! What every binding of the Disk seam must do. Uses nothing but `quorate_core` and the standard library, so that the
//! production binding's tests can include this file.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use quorate_core::disk::{Disk, File, OpenMode, Step, Wake, Worker, read_file, replace_file};

/// Runs all cases in `root`, a directory that does not exist yet.
///
/// # Panics
/// If the binding does not do its duties.
pub async fn suite<D: Disk>(disk: D, root: PathBuf) {
    let dir = root.join("a").join("b");
    disk.create_dir_all(&dir).expect("a directory and its parents are created");
    disk.create_dir_all(&dir).expect("it may be there already");
    run(&disk, &dir, read_and_write).await;
    run(&disk, &dir, lengths).await;
    run(&disk, &dir, open_modes).await;
    run(&disk, &dir, names).await;
    run(&disk, &dir, open_files_survive_their_names).await;
    run(&disk, &dir, replace).await;
    locks(&disk, &dir);
    handles_share_the_file(&disk, &dir).await;
    workers_are_woken(&disk).await;
    workers_do_not_wait_for_each_other(&disk).await;
}

/// A value that is set once and awaited.
struct Slot<T>(Arc<Mutex<(Option<T>, Option<Waker>)>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Slot<T> {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn set(&self, value: T) {
        let waker = {
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            slot.0 = Some(value);
            slot.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn get(&self) -> T {
        poll_fn(|cx| {
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match slot.0.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    slot.1 = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Does one thing and stops.
struct Once<F, T> {
    action: Option<F>,
    result: Slot<T>,
}

impl<F: FnOnce() -> T + Send + 'static, T: Send + 'static> Worker for Once<F, T> {
    type Done = T;

    fn work(&mut self) -> Step<T> {
        match self.action.take() {
            Some(action) => Step::Done(action()),
            None => Step::Stop,
        }
    }

    fn done(&mut self, done: T) {
        self.result.set(done);
    }
}

/// Runs a case inside a worker. A panic in it must reach the test, whatever thread the worker runs on.
async fn run<D: Disk>(disk: &D, dir: &Path, case: fn(&D, &Path)) {
    let (on, dir) = (disk.clone(), dir.to_owned());
    let caught = move || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&on, &dir)));
    let result = Slot::new();
    disk.start("case", Once { action: Some(caught), result: result.clone() });
    if let Err(panic) = result.get().await {
        std::panic::resume_unwind(panic);
    }
}

fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.expect_err("it is refused").kind()
}

fn content<D: Disk>(disk: &D, path: &Path) -> Vec<u8> {
    read_file(disk, path).expect("the file is there")
}

fn read_and_write<D: Disk>(disk: &D, dir: &Path) {
    let path = dir.join("data");
    let file = disk.open(&path, OpenMode::CreateNew).expect("created");
    assert_eq!(file.len().expect("len"), 0);
    file.write_at(0, b"hello world").expect("written");
    file.write_at(6, b"there").expect("overwritten");
    let mut buf = [0xee; 20];
    assert_eq!(file.read_at(0, &mut buf).expect("a read past the end is short"), 11);
    assert_eq!(&buf[..12], b"hello there\xee");
    assert_eq!(file.read_at(9, &mut buf[..2]).expect("read"), 2);
    assert_eq!(&buf[..2], b"re");
    assert_eq!(file.read_at(11, &mut buf).expect("at the end there is nothing"), 0);
    assert_eq!(file.read_at(1 << 40, &mut buf).expect("nor far past it"), 0);
    file.write_at(8190, b"span").expect("across a page, past the end");
    assert_eq!(file.len().expect("len"), 8194);
    let bytes = content(disk, &path);
    assert!(bytes[11..8190].iter().all(|byte| *byte == 0) && bytes.ends_with(b"span"));
    file.write_at(9000, b"").expect("nothing");
    assert_eq!(file.len().expect("len"), 8194);
    file.sync().expect("synced");
    disk.sync_dir(dir).expect("synced");
}

fn lengths<D: Disk>(disk: &D, dir: &Path) {
    let path = dir.join("lengths");
    let file = disk.open(&path, OpenMode::Create).expect("created");
    file.write_at(0, &[1; 5000]).expect("written");
    file.set_len(10).expect("cut");
    file.set_len(5000).expect("extended");
    let bytes = content(disk, &path);
    assert!(bytes.len() == 5000 && bytes[..10] == [1; 10] && bytes[10..].iter().all(|byte| *byte == 0));
    file.allocate(100_000).expect("allocated");
    assert_eq!(file.len().expect("len"), 100_000);
    file.allocate(10).expect("less than there is changes nothing");
    assert_eq!(file.len().expect("len"), 100_000);
    assert_eq!(content(disk, &path)[..10], [1; 10]);
    file.clear(4000).expect("cleared and cut");
    assert_eq!(content(disk, &path), [0; 4000]);
    file.write_at(0, &[1; 5000]).expect("written");
    file.clear(9000).expect("cleared and extended");
    assert_eq!(content(disk, &path), [0; 9000]);
    file.set_len(0).expect("emptied");
    assert!(content(disk, &path).is_empty());
}

fn open_modes<D: Disk>(disk: &D, dir: &Path) {
    let path = dir.join("modes");
    assert_eq!(kind(disk.open(&path, OpenMode::Read)), ErrorKind::NotFound);
    assert_eq!(kind(disk.open(&path, OpenMode::Existing)), ErrorKind::NotFound);
    disk.open(&path, OpenMode::Create).expect("created").write_at(0, b"x").expect("written");
    assert_eq!(kind(disk.open(&path, OpenMode::CreateNew)), ErrorKind::AlreadyExists);
    disk.open(&path, OpenMode::Create).expect("opened").write_at(1, b"y").expect("written");
    disk.open(&path, OpenMode::Existing).expect("opened").write_at(2, b"z").expect("written");
    let file = disk.open(&path, OpenMode::Read).expect("opened");
    file.write_at(0, b"no").expect_err("it was opened for reading");
    assert_eq!(content(disk, &path), b"xyz");
    let nowhere = dir.join("nowhere").join("file");
    assert_eq!(kind(disk.open(&nowhere, OpenMode::Create)), ErrorKind::NotFound);
}

fn names<D: Disk>(disk: &D, dir: &Path) {
    let dir = dir.join("names");
    assert_eq!(kind(disk.list(&dir)), ErrorKind::NotFound);
    disk.create_dir_all(&dir.join("sub")).expect("created");
    for name in ["c", "a", "b"] {
        disk.open(&dir.join(name), OpenMode::CreateNew).expect("created").write_at(0, name.as_bytes()).expect("ok");
    }
    assert_eq!(disk.list(&dir).expect("listed"), ["a", "b", "c", "sub"]);
    disk.rename(&dir.join("a"), &dir.join("d")).expect("renamed");
    disk.rename(&dir.join("b"), &dir.join("c")).expect("renamed over another");
    assert_eq!(disk.list(&dir).expect("listed"), ["c", "d", "sub"]);
    assert_eq!((content(disk, &dir.join("c")), content(disk, &dir.join("d"))), (b"b".to_vec(), b"a".to_vec()));
    disk.remove(&dir.join("c")).expect("removed");
    assert_eq!(kind(disk.remove(&dir.join("c"))), ErrorKind::NotFound);
    assert_eq!(kind(disk.rename(&dir.join("c"), &dir.join("x"))), ErrorKind::NotFound);
    assert_eq!(disk.list(&dir).expect("listed"), ["d", "sub"]);
    disk.sync_dir(&dir).expect("synced");
    assert_eq!(kind(disk.sync_dir(&dir.join("nowhere"))), ErrorKind::NotFound);
}

fn open_files_survive_their_names<D: Disk>(disk: &D, dir: &Path) {
    let (old, new) = (dir.join("old"), dir.join("new"));
    let file = disk.open(&old, OpenMode::Create).expect("created");
    file.write_at(0, b"old").expect("written");
    disk.open(&new, OpenMode::Create).expect("created").write_at(0, b"new").expect("written");
    disk.rename(&new, &old).expect("renamed over");
    let mut buf = [0; 3];
    assert_eq!(file.read_at(0, &mut buf).expect("read"), 3);
    assert_eq!(&buf, b"old");
    disk.remove(&old).expect("removed");
    file.write_at(0, b"OLD").expect("written");
    file.sync().expect("synced");
}

fn replace<D: Disk>(disk: &D, dir: &Path) {
    let path = dir.join("replaced");
    replace_file(disk, &path, b"a longer content").expect("replaced");
    replace_file(disk, &path, b"short").expect("replaced");
    assert_eq!(content(disk, &path), b"short");
    assert!(!disk.list(dir).expect("listed").iter().any(|name| name.ends_with(".new")));
}

fn locks<D: Disk>(disk: &D, dir: &Path) {
    let lock = disk.lock(dir).expect("locked");
    assert_eq!(kind(disk.lock(dir)), ErrorKind::WouldBlock);
    drop(lock);
    disk.lock(dir).expect("free again");
    assert_eq!(kind(disk.lock(&dir.join("nowhere"))), ErrorKind::NotFound);
}

/// What a worker wrote, others read through handles of their own.
async fn handles_share_the_file<D: Disk>(disk: &D, dir: &Path) {
    run(disk, dir, |disk, dir| {
        let file = disk.open(&dir.join("shared"), OpenMode::Create).expect("created");
        file.write_at(0, b"one").expect("written");
    })
    .await;
    let reader = disk.open(&dir.join("shared"), OpenMode::Read).expect("opened");
    run(disk, dir, |disk, dir| {
        let file = disk.open(&dir.join("shared"), OpenMode::Existing).expect("opened");
        file.write_at(0, b"two").expect("written");
    })
    .await;
    let mut buf = [0; 3];
    assert_eq!(reader.read_at(0, &mut buf).expect("read"), 3);
    assert_eq!(&buf, b"two");
    assert_eq!(content(disk, &dir.join("shared")), b"two");
}

/// Takes numbers from a queue, one for each step, and reports those that are done.
struct Taker {
    queue: Arc<Mutex<Vec<u32>>>,
    done: Vec<u32>,
    result: Slot<Vec<u32>>,
}

impl Worker for Taker {
    type Done = u32;

    fn work(&mut self) -> Step<u32> {
        match self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            Some(0) => Step::Stop,
            Some(number) => Step::Done(number),
            None => Step::Idle,
        }
    }

    fn done(&mut self, number: u32) {
        self.done.push(number);
        self.result.set(self.done.clone());
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.result.set(Vec::new());
    }
}

async fn workers_are_woken<D: Disk>(disk: &D) {
    let (queue, result) = (Arc::new(Mutex::new(Vec::new())), Slot::new());
    let wake = disk.start("taker", Taker { queue: queue.clone(), done: Vec::new(), result: result.clone() });
    for number in 1..=5 {
        queue.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        wake.wake();
        assert_eq!(result.get().await, (1..=number).collect::<Vec<_>>());
    }
    queue.lock().unwrap_or_else(PoisonError::into_inner).push(0);
    wake.wake();
    assert!(result.get().await.is_empty(), "a worker that stops is dropped");
    wake.wake();
}

async fn workers_do_not_wait_for_each_other<D: Disk>(disk: &D) {
    let (queue, result) = (Arc::default(), Slot::new());
    let idle = disk.start("idle", Taker { queue, done: Vec::new(), result: result.clone() });
    let other = Slot::new();
    disk.start("other", Once { action: Some(|| 7), result: other.clone() });
    assert_eq!(other.get().await, 7);
    drop(idle);
}
