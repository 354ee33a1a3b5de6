import CLibc
import Libc
import SessionState
import Synchronization

// fork(2): the child shares the state of every session (SessionState) and has its own copy of the tables. Locks are held
// across the fork so that the child finds the tables whole.

/// Written and read by the thread that forks, under the lock.
nonisolated(unsafe) private var isEntered = false

func forkPrepare() {
    isEntered = HiddenDescriptors.enter()
    holdForChild()
    Broker.lock.lock()
    Providers.lock.lock()
    guardian.lock()
}

/// The child's hold on each session is taken before it exists: its parent may close everything before the child's first step.
private func holdForChild() { forEachSession { $0.state.addHolder(Process.pid) } }

func forkParent() {
    guardian.unlock()
    Providers.lock.unlock()
    Broker.lock.unlock()
    if isEntered { HiddenDescriptors.leave() }
}

func forkChild() {
    libc_forget_thread_id()
    guardian.reset()
    Providers.lock.reset()
    Broker.lock.reset()
    HiddenDescriptors.forgetInChild()
    let parent = Process.pid
    Process.pid = UInt32(truncatingIfNeeded: sys_getpid())
    forEachSession { session in
        session.state.replaceHolder(parent, Process.pid)
        // Threads that worked in the parent are not here.
        session.pointee.setup.store(0, ordering: .relaxed)
        let stage = session.pointee.stage.load(ordering: .relaxed)
        if stage == Session.Stage.pending || stage == Session.Stage.looking {
            // The parent's proposal is the parent's.
            session.releaseCompanion()
            session.pointee.stage.store(Session.Stage.fresh, ordering: .relaxed)
        }
    }
    Providers.forgetInChild()
    Broker.forgetInChild()
}

/// Calls `body` once for each session in the table.
func forEachSession(_ body: (SessionRef) -> Void) {
    guard DescriptorTable.slots != nil else { return }
    for fd in 0..<DescriptorTable.highWater {
        guard let session = DescriptorTable.slot(fd).session, session.descriptor == fd else { continue }
        body(session)
    }
}

@c @implementation
public func switch_fork_child() { if Process.pid != 0 { forkChild() } }

@c @implementation
public func switch_fork_prepare() { if Process.pid != 0 { holdForChild() } }
