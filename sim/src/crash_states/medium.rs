//! What is on a disk, and everything that may be on it after the power is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::{Cell, Content, Image, SECTOR_BYTES, bytes_of, cell, hash_of};
use crate::SplitMix;

/// Where a sector that was being written may be torn: after so many bytes, and at every multiple of it.
const TEAR_BYTES: usize = 64;

/// What something was at the last sync, and what it has become since.
#[derive(Clone, Debug)]
struct Versions<T> {
    /// The first is durable.
    list: Vec<T>,
    /// Whether the next sync makes the last one durable. It does not after a sync that failed: the pages are then
    /// clean and yet not on the medium.
    dirty: bool,
}

impl<T> Versions<T> {
    fn durable(value: T) -> Self {
        Self { list: vec![value], dirty: false }
    }

    fn push(&mut self, value: T) {
        self.list.push(value);
        self.dirty = true;
    }

    fn settle(&mut self) {
        if self.dirty {
            self.list.drain(..self.list.len() - 1);
            self.dirty = false;
        }
    }
}

#[derive(Clone, Debug)]
struct Inode {
    cache: Arc<Content>,
    durable: Arc<Content>,
    cells: BTreeMap<usize, Versions<Cell>>,
    lens: Versions<u64>,
}

impl Inode {
    fn new(content: Arc<Content>) -> Self {
        let lens = Versions::durable(content.len());
        Self { durable: content.clone(), cache: content, cells: BTreeMap::new(), lens }
    }

    fn change(&mut self, change: impl FnOnce(&mut Content) -> Vec<usize>) {
        let cache = Arc::make_mut(&mut self.cache);
        let len = cache.len();
        for at in change(cache) {
            let durable = &self.durable;
            self.cells.entry(at).or_insert_with(|| Versions::durable(durable.cell(at))).push(cache.cell(at));
        }
        if cache.len() != len {
            self.lens.push(cache.len());
        }
    }

    /// `keep` is a sector that a broken disk forgets.
    fn sync(&mut self, keep: Option<usize>) {
        self.lens.settle();
        let durable = Arc::make_mut(&mut self.durable);
        self.cells.retain(|at, versions| {
            if Some(*at) == keep {
                return true;
            }
            versions.settle();
            if let [only] = &versions.list[..] {
                durable.put(*at, only.clone());
            }
            versions.list.len() > 1
        });
        if let [len] = self.lens.list[..] {
            durable.set_len(len);
        }
    }

    fn sync_failed(&mut self) {
        self.lens.dirty = false;
        self.cells.values_mut().for_each(|versions| versions.dirty = false);
    }
}

/// A disk at one instant: what a process sees, and what of it would survive a power loss.
#[derive(Clone, Debug, Default)]
pub(crate) struct Medium {
    inodes: BTreeMap<u64, Inode>,
    dirs: BTreeMap<PathBuf, BTreeMap<String, Versions<Option<u64>>>>,
    next: u64,
}

impl Medium {
    pub(crate) fn from_image(image: &Image) -> Self {
        let mut medium = Self::default();
        for (dir, names) in &image.0 {
            let entries = names.iter().map(|(name, content)| {
                medium.next += 1;
                medium.inodes.insert(medium.next, Inode::new(content.clone()));
                (name.clone(), Versions::durable(Some(medium.next)))
            });
            let entries = entries.collect();
            medium.dirs.insert(dir.clone(), entries);
        }
        medium
    }

    /// What a process sees.
    pub(crate) fn cached(&self) -> Image {
        let dirs = self.dirs.iter().map(|(dir, entries)| {
            let names = entries.iter().filter_map(|(name, versions)| {
                let inode = (*versions.list.last()?)?;
                Some((name.clone(), self.inodes[&inode].cache.clone()))
            });
            (dir.clone(), names.collect())
        });
        Image(dirs.collect())
    }

    pub(crate) fn make_dir(&mut self, dir: &Path) {
        self.dirs.entry(dir.to_owned()).or_default();
    }

    pub(crate) fn list(&self, dir: &Path) -> Option<Vec<String>> {
        let entries = self.dirs.get(dir)?;
        let there = entries.iter().filter(|(_, versions)| versions.list.last().is_some_and(Option::is_some));
        Some(there.map(|(name, _)| name.clone()).collect())
    }

    pub(crate) fn find(&self, dir: &Path, name: &str) -> Option<u64> {
        *self.dirs.get(dir)?.get(name)?.list.last()?
    }

    /// Changes what a name means; false if there is no such directory.
    pub(crate) fn link(&mut self, dir: &Path, name: &str, inode: Option<u64>) -> bool {
        let Some(entries) = self.dirs.get_mut(dir) else { return false };
        entries.entry(name.to_owned()).or_insert_with(|| Versions::durable(None)).push(inode);
        true
    }

    pub(crate) fn create(&mut self) -> u64 {
        self.next += 1;
        self.inodes.insert(self.next, Inode::new(Arc::default()));
        self.next
    }

    pub(crate) fn content(&self, inode: u64) -> &Content {
        &self.inodes[&inode].cache
    }

    pub(crate) fn write(&mut self, inode: u64, offset: u64, data: &[u8]) {
        self.inode(inode).change(|content| content.write(offset, data));
    }

    pub(crate) fn set_len(&mut self, inode: u64, len: u64) {
        self.inode(inode).change(|content| content.set_len(len));
    }

    pub(crate) fn sync(&mut self, inode: u64) {
        self.inode(inode).sync(None);
    }

    /// A sync that forgets one sector.
    pub(crate) fn sync_badly(&mut self, inode: u64) {
        let inode = self.inode(inode);
        let changed = inode.cells.iter().find(|(_, v)| v.list.first().map(hash_of) != v.list.last().map(hash_of));
        let keep = changed.map(|(at, _)| *at);
        inode.sync(keep);
    }

    /// A sync that failed: nothing is known about what it should have written, and no later sync writes it.
    pub(crate) fn sync_failed(&mut self, inode: u64) {
        self.inode(inode).sync_failed();
    }

    /// As [`Medium::sync_failed`], of names.
    pub(crate) fn sync_dir_failed(&mut self, dir: &Path) {
        self.dirs.get_mut(dir).into_iter().flat_map(BTreeMap::values_mut).for_each(|versions| versions.dirty = false);
    }

    pub(crate) fn sync_dir(&mut self, dir: &Path) -> bool {
        let Some(entries) = self.dirs.get_mut(dir) else { return false };
        entries.values_mut().for_each(Versions::settle);
        entries.retain(|_, versions| versions.list[..] != [None]);
        true
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("only this medium gives out numbers of inodes")
    }

    /// Everything that a power loss decides, each with all it may become.
    pub(crate) fn choices(&self) -> Choices<'_> {
        let mut all = Vec::new();
        let mut reachable = BTreeSet::new();
        for (dir, entries) in &self.dirs {
            for (name, versions) in entries {
                reachable.extend(versions.list.iter().flatten().copied());
                let options = distinct(&versions.list, |inode| *inode);
                if options.len() > 1 {
                    all.push(Choice { what: What::Entry(dir, name, options), torn: Vec::new() });
                }
            }
        }
        for &number in &reachable {
            let inode = &self.inodes[&number];
            let lens = distinct(&inode.lens.list, |len| *len);
            if lens.len() > 1 {
                all.push(Choice { what: What::Len(number, lens), torn: Vec::new() });
            }
            for (&at, versions) in &inode.cells {
                let options = distinct(&versions.list, hash_of);
                if options.len() > 1 {
                    let torn = torn(&versions.list, &options);
                    all.push(Choice { what: What::Cell(number, at, options), torn });
                }
            }
        }
        Choices { medium: self, all }
    }
}

/// Without repetitions, the newest last and the durable one first.
fn distinct<T: Clone, K: Ord>(list: &[T], key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let newest = list.last().map(&key);
    let mut out: Vec<T> = list.iter().filter(|item| seen.insert(key(item))).cloned().collect();
    if let Some(at) = out.iter().position(|item| Some(key(item)) == newest)
        && (at > 0 || out.len() == 1)
    {
        let last = out.remove(at);
        out.push(last);
    }
    out
}

/// What the newest write leaves of a sector when it is cut.
fn torn(versions: &[Cell], options: &[Cell]) -> Vec<Cell> {
    let [.., before, newest] = versions else { return Vec::new() };
    let (before, newest) = (bytes_of(before), bytes_of(newest));
    let mut seen: BTreeSet<u128> = options.iter().map(hash_of).collect();
    let cuts = std::iter::once(1).chain((TEAR_BYTES..SECTOR_BYTES).step_by(TEAR_BYTES));
    let torn = cuts.filter_map(|cut| {
        let mut bytes = before;
        bytes[..cut].copy_from_slice(&newest[..cut]);
        let torn = cell(bytes);
        seen.insert(hash_of(&torn)).then_some(torn)
    });
    torn.collect()
}

enum What<'a> {
    Entry(&'a Path, &'a str, Vec<Option<u64>>),
    Len(u64, Vec<u64>),
    Cell(u64, usize, Vec<Cell>),
}

struct Choice<'a> {
    what: What<'a>,
    /// What else a sector may be, if it is the one that was being written.
    torn: Vec<Cell>,
}

impl Choice<'_> {
    fn options(&self) -> usize {
        match &self.what {
            What::Entry(_, _, options) => options.len(),
            What::Len(_, options) => options.len(),
            What::Cell(_, _, options) => options.len(),
        }
    }

    fn newest(&self) -> usize {
        self.options() - 1
    }
}

/// The legal states of a medium after a power loss.
pub(crate) struct Choices<'a> {
    medium: &'a Medium,
    all: Vec<Choice<'a>>,
}

impl Choices<'_> {
    /// How many combinations there are, torn ones included.
    pub(crate) fn count(&self) -> u64 {
        let whole = self.all.iter().fold(1_u64, |n, choice| n.saturating_mul(choice.options() as u64));
        if whole == u64::MAX {
            return whole;
        }
        let torn = self.all.iter().map(|c| (c.torn.len() as u64).saturating_mul(whole / c.options() as u64));
        torn.fold(whole, u64::saturating_add)
    }

    /// Nothing of what was not synced.
    pub(crate) fn all_lost(&self) -> Image {
        self.build(&vec![0; self.all.len()], None)
    }

    /// Calls `each` with every combination.
    pub(crate) fn each(&self, each: &mut dyn FnMut(Image)) {
        let mut picks = vec![0; self.all.len()];
        loop {
            each(self.build(&picks, None));
            for (at, choice) in self.all.iter().enumerate() {
                // A torn sector stands for the pick 0, so that each combination of the others comes once.
                if picks[at] == 0 {
                    (0..choice.torn.len()).for_each(|variant| each(self.build(&picks, Some((at, variant)))));
                }
            }
            let Some(at) = (0..picks.len()).find(|at| picks[*at] < self.all[*at].newest()) else { return };
            picks[at] += 1;
            picks[..at].fill(0);
        }
    }

    /// Calls `each` with all lost, all kept, every single one lost or kept or torn, pairs if there are few, and random
    /// combinations.
    pub(crate) fn sample(&self, random: usize, rng: &mut SplitMix, each: &mut dyn FnMut(Image)) {
        let lost = vec![0; self.all.len()];
        let kept: Vec<usize> = self.all.iter().map(Choice::newest).collect();
        each(self.build(&lost, None));
        each(self.build(&kept, None));
        for (at, choice) in self.all.iter().enumerate() {
            for base in [&lost, &kept] {
                for pick in (0..choice.options()).filter(|pick| *pick != base[at]) {
                    let mut picks = base.clone();
                    picks[at] = pick;
                    each(self.build(&picks, None));
                }
            }
        }
        if self.all.len() <= 16 {
            for a in 0..self.all.len() {
                for b in 0..a {
                    for base in [&lost, &kept] {
                        let mut picks = base.clone();
                        for at in [a, b] {
                            picks[at] = self.all[at].newest() - base[at];
                        }
                        each(self.build(&picks, None));
                    }
                }
            }
        }
        for _ in 0..random {
            let per_eight = 1 + rng.below(7);
            let picks: Vec<usize> = self.all.iter().map(|choice| choice.pick(per_eight, rng)).collect();
            let at = rng.below(self.all.len() as u64) as usize;
            let variants = self.all[at].torn.len() as u64;
            let torn = (variants > 0 && rng.below(2) == 0).then(|| (at, rng.below(variants) as usize));
            each(self.build(&picks, torn));
        }
    }

    fn build(&self, picks: &[usize], torn: Option<(usize, usize)>) -> Image {
        let mut changed: BTreeMap<u64, Arc<Content>> = BTreeMap::new();
        let content = |inode: &u64| self.medium.inodes[inode].durable.clone();
        let mut lens = Vec::new();
        let mut names: BTreeMap<(&Path, &str), Option<u64>> = BTreeMap::new();
        for (at, (choice, &pick)) in self.all.iter().zip(picks).enumerate() {
            let variant = torn.filter(|(torn, _)| *torn == at).map(|(_, variant)| &choice.torn[variant]);
            match &choice.what {
                What::Entry(dir, name, options) => drop(names.insert((dir, name), options[pick])),
                What::Len(inode, options) => lens.push((*inode, options[pick])),
                What::Cell(inode, sector, options) => {
                    let value = variant.unwrap_or(&options[pick]).clone();
                    let file = changed.entry(*inode).or_insert_with(|| content(inode));
                    if hash_of(&file.cell(*sector)) != hash_of(&value) {
                        Arc::make_mut(file).put(*sector, value);
                    }
                }
            }
        }
        for (&number, inode) in &self.medium.inodes {
            let chosen = lens.iter().find(|(of, _)| *of == number).map(|(_, len)| *len);
            let len = chosen.or(inode.lens.list.last().copied()).unwrap_or(inode.durable.len());
            if changed.contains_key(&number) || len != inode.durable.len() {
                let file = changed.entry(number).or_insert_with(|| content(&number));
                Arc::make_mut(file).set_len(len);
            }
        }
        let dirs = self.medium.dirs.iter().map(|(dir, entries)| {
            let files = entries.iter().filter_map(|(name, versions)| {
                let chosen = names.get(&(dir.as_path(), name.as_str())).copied();
                let inode = chosen.unwrap_or(*versions.list.last()?)?;
                Some((name.clone(), changed.get(&inode).cloned().unwrap_or_else(|| content(&inode))))
            });
            (dir.clone(), files.collect())
        });
        Image(dirs.collect())
    }
}

impl Choice<'_> {
    fn pick(&self, per_eight: u64, rng: &mut SplitMix) -> usize {
        match self.options() {
            2 => usize::from(rng.below(8) < per_eight),
            options => rng.below(options as u64) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(medium: &Medium) -> Vec<Image> {
        let (mut all, mut keys) = (Vec::new(), BTreeSet::new());
        let choices = medium.choices();
        choices.each(&mut |image| {
            assert!(keys.insert(image.key()), "every combination comes once and is another image");
            all.push(image);
        });
        assert_eq!(all.len() as u64, choices.count());
        all
    }

    fn dir() -> (Medium, PathBuf) {
        let mut medium = Medium::default();
        medium.make_dir(Path::new("d"));
        (medium, PathBuf::from("d"))
    }

    #[test]
    fn sectors_lengths_and_names_are_lost_independently_until_they_are_synced() {
        let (mut medium, dir) = dir();
        let inode = medium.create();
        assert!(medium.link(&dir, "f", Some(inode)));
        medium.set_len(inode, 2048);
        medium.sync(inode);
        assert!(medium.sync_dir(&dir));
        assert_eq!(images(&medium).len(), 1);
        medium.write(inode, 0, &[1; 1024]);
        // Each of two sectors old, new, or one of them torn at 1, 64, 128, ... 448.
        assert_eq!(images(&medium).len(), 4 + 2 * 8 * 2);
        medium.set_len(inode, 4096);
        assert_eq!(images(&medium).len(), 2 * (4 + 2 * 8 * 2));
        medium.sync(inode);
        assert_eq!(images(&medium).len(), 1);
        assert!(medium.link(&dir, "g", Some(inode)) && medium.link(&dir, "f", None));
        assert_eq!(images(&medium).len(), 4, "a rename: either name, both or none");
    }

    #[test]
    fn a_failed_sync_leaves_pages_that_no_later_sync_writes() {
        let (mut medium, dir) = dir();
        let inode = medium.create();
        assert!(medium.link(&dir, "f", Some(inode)) && medium.sync_dir(&dir));
        medium.set_len(inode, 512);
        medium.sync(inode);
        medium.write(inode, 0, &[1; 512]);
        medium.sync_failed(inode);
        medium.sync(inode);
        assert!(images(&medium).len() > 1);
        medium.write(inode, 0, &[1; 512]);
        medium.sync(inode);
        assert_eq!(images(&medium).len(), 1, "until they are written again");
        assert_eq!(medium.choices().all_lost().file_mut(Path::new("d/f")).unwrap().bytes(), vec![1; 512]);
    }
}
