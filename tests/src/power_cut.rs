//! A file system on a loop device whose power can be cut: what was not synced is lost, as after a real power failure.
//!
//! Needs root. It leaves nothing mounted behind, even after a panic. It never touches any other file system.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// Which file system a [`PowerCutDisk`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 with its defaults (ordered data mode).
    Ext4,
    /// xfs with its defaults.
    Xfs,
}

/// A file system in an image file, mounted over a loop device.
#[derive(Debug)]
pub struct PowerCutDisk {
    mount: PathBuf,
    is_mounted: bool,
    image: PathBuf,
    script: PathBuf,
    _dir: TempDir,
}

impl FileSystem {
    fn make(self, image: &Path) -> Command {
        let mut command = Command::new(self.maker());
        match self {
            FileSystem::Ext4 => command.args(["-q", "-F"]),
            FileSystem::Xfs => command.args(["-q", "-f"]),
        };
        command.arg(image);
        command
    }

    fn smallest_bytes(self) -> u64 {
        match self {
            FileSystem::Ext4 => 32 * 1024 * 1024,
            FileSystem::Xfs => 320 * 1024 * 1024,
        }
    }

    fn maker(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "mkfs.ext4",
            FileSystem::Xfs => "mkfs.xfs",
        }
    }
}

impl PowerCutDisk {
    /// Why such disks cannot be made here, in words, or `None` if they can.
    #[must_use]
    pub fn unavailable(file_system: FileSystem) -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("cutting the power of a disk needs root".to_owned());
        }
        for tool in [file_system.maker(), "mount", "umount", "losetup", "python3"] {
            let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
            if !found.is_ok_and(|output| output.status.success()) {
                return Some(format!("{tool} is not installed"));
            }
        }
        match PowerCutDisk::new(file_system, 0) {
            Ok(_) => None,
            Err(error) => Some(format!("a disk cannot be made: {error:#}")),
        }
    }

    /// Makes and mounts a fresh file system of so many bytes, or of the least that it can be made with.
    ///
    /// # Errors
    ///
    /// When a tool is missing or refuses.
    pub fn new(file_system: FileSystem, bytes: u64) -> Result<PowerCutDisk> {
        let dir = tempfile::Builder::new().prefix("redeliver-power-cut-").tempdir()?;
        let image = dir.path().join("disk.img");
        File::create(&image)?.set_len(bytes.max(file_system.smallest_bytes()))?;
        run(&mut file_system.make(&image))?;
        let script = dir.path().join("cut.py");
        fs::write(&script, CUT_SCRIPT)?;
        let mount = dir.path().join("mount");
        fs::create_dir(&mount)?;
        let mut disk = PowerCutDisk { mount, is_mounted: false, image, script, _dir: dir };
        disk.mount()?;
        Ok(disk)
    }

    /// Where the file system is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power under a process that writes here, kills it, and brings the disk back, as the next boot would.
    ///
    /// # Errors
    ///
    /// When a step fails; the disk is then not to be used any more.
    pub fn cut(&mut self, writer: &mut Child) -> Result<()> {
        signal(writer, rustix::process::Signal::STOP);
        self.shut_down()?;
        writer.kill().context("killing the writer")?;
        writer.wait().context("waiting for the writer's end")?;
        self.unmount()?;
        self.mount()
    }

    /// Stops the file system at once: nothing that is not on the disk by now gets there.
    fn shut_down(&self) -> Result<()> {
        run(Command::new("python3").arg("-S").arg(&self.script).arg(&self.mount))?;
        Ok(())
    }

    fn mount(&mut self) -> Result<()> {
        ensure!(!self.is_mounted, "the disk is mounted already");
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount))?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<()> {
        run(Command::new("umount").arg(&self.mount))?;
        self.is_mounted = false;
        Ok(())
    }
}

impl Drop for PowerCutDisk {
    fn drop(&mut self) {
        if self.is_mounted && self.unmount().is_err() {
            // Something still has a file open. Lazily, it goes as soon as that is closed.
            let _ = run(Command::new("umount").arg("-l").arg(&self.mount));
        }
    }
}

fn signal(process: &Child, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(process.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // It may have ended by itself; the cut is then the same.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, errors.lines().next().unwrap_or_default());
    }
    Ok(output)
}

/// `FS_IOC_SHUTDOWN` without flushing the journal: the only way to lose what was not synced, short of a real power cut. An
/// ioctl needs unsafe code in Rust, so a script does it.
const CUT_SCRIPT: &str = "\
import fcntl, os, struct, sys
mount = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(mount, 0x8004587d, struct.pack('I', 2))
";
