import CLibc
import Libc
import SessionState
import Synchronization
import Wire

// The library's life in a process: read the environment, and nothing else, until the first TCP socket or epoll set.

@c @implementation
public func switch_start() { settings.read() }

/// At exit: unread bytes in a ring must reset the connection, as unread bytes in a TCP queue do.
@c @implementation
public func switch_stop() {
    guard DescriptorTable.slots != nil, Process.isOwn else { return }
    forEachSession { $0.prepareToClose() }
    Providers.stop()
}

/// exec(3): a descriptor that survives names a stream which the next program knows nothing of.
@c @implementation
public func switch_before_exec() {
    guard DescriptorTable.slots != nil else { return }
    let isOwn = Process.isOwn
    for fd in 0..<DescriptorTable.highWater {
        guard let session = DescriptorTable.hold(fd) else { continue }
        if sys_fcntl(fd, F_GETFD, 0) & Int(FD_CLOEXEC) == 0 {
            session.returnToKernel(.exec)
        } else if isOwn, session.descriptor == fd {
            // This process's name goes with the exec; its pid lives on.
            session.state.removeHolder(Process.pid)
        }
        session.drop()
    }
}

/// exec(3) has returned: the process goes on, and so do its sessions.
@c @implementation
public func switch_exec_failed() {
    guard DescriptorTable.slots != nil, Process.isOwn else { return }
    forEachSession {
        if sys_fcntl($0.descriptor, F_GETFD, 0) & Int(FD_CLOEXEC) != 0 { $0.state.addHolder(Process.pid) }
    }
}

@c @implementation
public func switch_before_stdio(_ fd: CInt) {
    guard let session = DescriptorTable.hold(fd) else { return }
    session.returnToKernel(.stdio)
    session.drop()
}

@c @implementation
public func switch_unread(_ fd: CInt) -> Int {
    guard let session = DescriptorTable.hold(fd) else { return 0 }
    defer { session.drop() }
    guard session.receivesOnCompanion else { return 0 }
    return Int(truncatingIfNeeded: min(session.ringBytes, Limits.smallRing &+ session.pointee.inboxRing))
}

@c @implementation
public func switch_memory_changes() { KnownMemory.forget() }
