//! One forked process: its connection, its pid, and the pipe that its standard output and error lead to.

use std::any::Any;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, setpriority_pgrp};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::cgroups::Cgroups;
use crate::folders;
use crate::protocol::{self, Exit, Forked};

/// How far a run stands back that takes long (ADR 55).
const NICENESS: i32 = 10;

/// A process that waits for its start frame, or runs.
#[derive(Debug)]
pub(crate) struct Process {
    /// `None` while a run has it.
    pub(crate) stream: Option<UnixStream>,
    pub(crate) output: pipe::Receiver,
    pub(crate) exit: oneshot::Receiver<Exit>,
    pid: Pid,
    handle: OwnedFd,
    /// Runs it has served.
    pub(crate) served: u32,
    /// What its user keeps with it from run to run.
    pub(crate) kept: Option<Box<dyn Any + Send + Sync>>,
    /// Its private directory.
    folder: PathBuf,
    /// Its control group.
    cgroup: Option<PathBuf>,
}

impl Process {
    /// Whether it has ended while nobody looked: one that stands ready for long may be killed from outside.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.exit.try_recv().is_ok()
    }

    /// Connects to the template, which forks, and takes what the template says of the child.
    pub(crate) async fn fork(
        socket: &Path,
        folders: &Path,
        cgroups: Option<&Cgroups>,
        expect_exit: impl FnOnce(i32) -> oneshot::Receiver<Exit>,
    ) -> io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let (forked, output) = loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || receive(&stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => break received?,
            }
        };
        let pid = Pid::from_raw(forked.pid).ok_or_else(|| io::Error::other("the template sent no pid"))?;
        // A descriptor names this very process, whatever becomes of the number.
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        let exit = expect_exit(forked.pid);
        Ok(Self {
            stream: Some(stream),
            output: pipe::Receiver::from_owned_fd(output)?,
            exit,
            pid,
            handle,
            served: 0,
            kept: None,
            folder: folders.join(forked.number.to_string()),
            cgroup: cgroups.zip(forked.cgroup).map(|(cgroups, name)| cgroups.path().join(name)),
        })
    }

    /// Has it, and what it starts from now on, stand back for whoever else wants a core.
    pub(crate) fn stand_back(&self) {
        // Where the kernel groups sessions, or the run has a control group, the rank within one counts for nothing. Whoever may not do it loses the
        // courtesy alone; and were the number another's by now, that one would stand back, which is all it can come to.
        let session = PathBuf::from(format!("/proc/{}/autogroup", self.pid.as_raw_nonzero()));
        let group = self.cgroup.as_ref().map(|cgroup| cgroup.join("cpu.weight.nice"));
        for ranked in group.into_iter().chain([session]) {
            let _ = std::fs::write(ranked, NICENESS.to_string());
        }
        let _ = setpriority_pgrp(Some(self.pid), NICENESS);
    }

    /// Asks the process to end; it has a handler that lets `finally` blocks run.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends the process and, with its namespace or through the template, all it has started.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// As [`Self::kill`], without waiting until the template sees to the tree.
    pub(crate) fn kill_tree(&self) {
        if let Some(cgroup) = &self.cgroup {
            // One that has ended already has no group any more.
            let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
        }
        self.kill();
    }

    fn signal(&self, signal: Signal) {
        // It may have ended already, which is what we want.
        let _ = pidfd_send_signal(self.handle.as_fd(), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let exit = std::mem::replace(&mut self.exit, oneshot::channel().1);
        folders::remove_after(std::mem::take(&mut self.folder), exit);
    }
}

/// Receives the template's frame and the read end of the output pipe, which comes with its first byte.
fn receive(stream: &UnixStream) -> io::Result<(Forked, OwnedFd)> {
    let mut bytes = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let output = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let broken = || io::Error::other("the template closed the connection");
    let mut buffer = BytesMut::from(&bytes[..received.bytes]);
    let frame = protocol::take(&mut buffer).map_err(io::Error::other)?.ok_or_else(broken)?;
    let forked = serde_json::from_slice(&frame).map_err(io::Error::other)?;
    Ok((forked, output.ok_or_else(broken)?))
}
