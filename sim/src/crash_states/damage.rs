//! Damages a medium on which everything is durable, and sees whether a start notices.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openraft_rt::AsyncRuntime;
use quorate_core::log::format::{BLOCK_BYTES, parse_segment_name, segment_name};

use super::content::Image;
use super::disk::RecordingDisk;
use super::node::{CrashPlatform, Recovered, Refusal, Storage, data_dir, fresh};
use super::script::{History, record};
use super::{Effort, Plant};
use crate::platform::SimRuntime;

const BLOCK: usize = BLOCK_BYTES as usize;

/// What became of one history's damaged media.
#[derive(Clone, Debug, Default)]
pub struct DamageReport {
    /// The history.
    pub name: &'static str,
    /// Media that a start was tried on.
    pub damaged: u64,
    /// Of them, those that it refused; the others lost nothing.
    pub refused: u64,
    /// The first violation.
    pub violation: Option<String>,
}

impl fmt::Display for DamageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = self.violation.as_deref().unwrap_or("no violation");
        let Self { name, damaged, refused, .. } = self;
        let whole = damaged - refused;
        write!(f, "{name}: {damaged} damaged media, {refused} refused, {whole} recovered whole: {verdict}")
    }
}

struct Damager {
    with_store: bool,
    plant: Option<Plant>,
    whole: Image,
    expected: Recovered,
    report: DamageReport,
    starts: u64,
    /// Of so many ways to damage it one is tried.
    every: u64,
    ways: u64,
}

pub(super) async fn damage(
    history: &'static History,
    effort: Effort,
    plant: Option<Plant>,
) -> Result<DamageReport, String> {
    // What no sync has confirmed yet is there too: this is not about power.
    let whole = record(history, plant).await?.end;
    let mut damager = Damager {
        with_store: history.store,
        plant,
        expected: open(&whole, history.store, 1).await.map_err(|refusal| refusal.text)?,
        whole,
        report: DamageReport { name: history.name, ..DamageReport::default() },
        starts: 1,
        every: if history.store { effort.damage_store_every } else { 1 },
        ways: 0,
    };
    if let Err(what) = damager.all(effort).await {
        damager.report.violation = Some(what);
    }
    Ok(damager.report)
}

async fn open(image: &Image, with_store: bool, n: u64) -> Result<Recovered, Refusal> {
    let disk = RecordingDisk::new(image, None);
    let opened = Storage::open(CrashPlatform::new(disk.clone()), with_store, fresh(n)).await;
    let result = match opened {
        // What opening did not have to read is found when it is read, which is as good.
        Ok(storage) => storage.recovered().await.map_err(|text| Refusal { text, damage: None }),
        Err(refusal) => Err(refusal),
    };
    disk.kill();
    result
}

impl Damager {
    async fn all(&mut self, effort: Effort) -> Result<(), String> {
        let files: Vec<(PathBuf, Vec<u8>)> =
            self.whole.files().map(|(path, content)| (path, content.bytes())).collect();
        for (path, bytes) in &files {
            self.bytes(path, bytes, effort.flip_every).await?;
            self.blocks(path, bytes).await?;
        }
        self.misdirected(&files).await
    }

    /// Single bits.
    async fn bytes(&mut self, path: &Path, bytes: &[u8], every: usize) -> Result<(), String> {
        // Where there is nothing, a few bytes stand for all.
        let used = |at: usize| bytes[at / 64 * 64..].iter().take(64).any(|byte| *byte != 0);
        for at in (0..bytes.len()).filter(|at| at % if used(*at) { every } else { 32 * every } == 0) {
            let bit = 1 << (at / every % 8);
            let what = format!("{}: bit {bit:#x} of byte {at} is turned over", path.display());
            self.try_with(&what, path, at, &[bytes[at] ^ bit]).await?;
        }
        Ok(())
    }

    /// Whole blocks: zeros, ones, and a lost second half.
    async fn blocks(&mut self, path: &Path, bytes: &[u8]) -> Result<(), String> {
        for (block, content) in bytes.chunks(BLOCK).enumerate() {
            let half = content.len() / 2;
            for (kind, start, fill) in [("zeros", 0, 0), ("ones", 0, 0xff), ("half zeros", half, 0)] {
                let what = format!("{}: block {block} is {kind}", path.display());
                let new = vec![fill; content.len() - start];
                self.try_with(&what, path, block * BLOCK + start, &new).await?;
            }
        }
        Ok(())
    }

    /// A block's content is found at another block's place.
    async fn misdirected(&mut self, files: &[(PathBuf, Vec<u8>)]) -> Result<(), String> {
        let blocks = files.iter().flat_map(|(path, bytes)| {
            bytes.chunks(BLOCK).enumerate().map(move |(block, content)| (path, block, content))
        });
        let blocks: Vec<_> = blocks.collect();
        for (from, from_block, content) in blocks.iter().filter(|(_, _, content)| content.iter().any(|b| *b != 0)) {
            for (path, block, old) in &blocks {
                if old != content {
                    let what =
                        format!("block {from_block} of {} is at block {block} of {}", from.display(), path.display());
                    let len = content.len().min(old.len());
                    self.try_with(&what, path, block * BLOCK, &content[..len]).await?;
                }
            }
        }
        Ok(())
    }

    async fn try_with(&mut self, what: &str, path: &Path, at: usize, new: &[u8]) -> Result<(), String> {
        self.ways += 1;
        if !self.ways.is_multiple_of(self.every) {
            return Ok(());
        }
        let mut image = self.whole.clone();
        let file = image.file_mut(path).ok_or("no such file")?;
        file.write(at as u64, new);
        self.starts += 1;
        if self.starts.is_multiple_of(64) {
            SimRuntime::sleep(Duration::from_millis(50)).await;
        }
        self.report.damaged += 1;
        let mut result = open(&image, self.with_store, self.starts).await;
        if let (Some(Plant::DamageIsCut), Err(Refusal { damage: Some(damage), .. })) = (self.plant, &result) {
            cut(&mut image, *damage);
            result = open(&image, self.with_store, self.starts).await;
        }
        match result {
            Err(refusal) if !refusal.text.contains("log-") && !refusal.text.contains("/data/") => {
                Err(format!("{what}: the refusal names no file: {}", refusal.text))
            }
            Err(_) => {
                self.report.refused += 1;
                Ok(())
            }
            Ok(recovered) if recovered == self.expected => Ok(()),
            Ok(recovered) => {
                Err(format!("{what}: nobody notices; it comes up with {recovered:?} instead of {:?}", self.expected))
            }
        }
    }
}

/// What a careless recovery does.
fn cut(image: &mut Image, (segment, offset): (u64, u64)) {
    if let Some(file) = image.file_mut(&data_dir().join(segment_name(segment))) {
        file.set_len(offset);
    }
    if let Some(names) = image.0.get_mut(data_dir()) {
        names.retain(|name, _| parse_segment_name(name).is_none_or(|number| number <= segment));
    }
}
