import CLibc
import Libc
import Synchronization

// epoll(7). The program's set stays the kernel's; entries of sessions, and of sets, are noted beside it.

/// A set is noted because it may be put into another before either has a session.
@c @implementation
public func switch_epoll_created(_ fd: CInt) -> CInt {
    guard fd >= 0, settings.isOn else { return fd }
    let error = libc_errno()
    if Process.begin() { DescriptorTable.exchange(fd, .plainSet) }
    libc_set_errno(error)
    return fd
}

@c @implementation
public func switch_epoll_ctl(_ set: CInt, _ operation: CInt, _ fd: CInt, _ event: UnsafeMutablePointer<epoll_event>?)
    -> CInt
{
    let slot = DescriptorTable.slot(fd)
    switch slot.kind {
    case .none, .listener: return real_epoll_ctl(set, operation, fd, event)
    case .hidden: return fail(EBADF)
    case .epoll, .plainSet:
        Readiness.lock.lock()
        defer { Readiness.lock.unlock() }
        return NestEntry(set: set, fd: fd).control(operation, event)
    case .fresh:
        // nginx adds a socket before it connects it: the entry must be known when the session begins.
        if operation == EPOLL_CTL_ADD, isTCP(fd) { SessionRef.open(fd, role: 0) }
    case .session: break
    }
    guard let session = DescriptorTable.hold(fd) else { return real_epoll_ctl(set, operation, fd, event) }
    defer { session.drop() }
    Readiness.lock.lock()
    defer { Readiness.lock.unlock() }
    return EpollEntry(set: set, fd: fd, session: session).control(operation, event)
}

private struct EpollEntry {
    let set: CInt
    let fd: CInt
    let session: SessionRef

    /// With `Readiness.lock` held.
    func control(_ operation: CInt, _ event: UnsafeMutablePointer<epoll_event>?) -> CInt {
        let known = DescriptorTable.slot(set).epollSet.flatMap { $0.find(session, fd) }
        if let known, known.pointee.isFollowed { return controlFollowed(known, operation, event) }
        let result = real_epoll_ctl(set, operation, fd, event)
        guard result == 0 else { return result }
        switch operation {
        case EPOLL_CTL_ADD:
            // Left from a descriptor of the same number that is closed, or from an entry taken out.
            if let known { known.pointee.set.remove(known) }
            if let event { EpollSetRef.of(set)?.add(session, fd, event.pointee.events, libc_epoll_data(event)) }
        case EPOLL_CTL_MOD:
            if let known, let event {
                known.pointee.events = event.pointee.events
                known.pointee.data = libc_epoll_data(event)
            }
        case EPOLL_CTL_DEL:
            if let known { known.pointee.set.remove(known) }
        default: break
        }
        return result
    }

    /// An entry that reports to us: nothing of this concerns the kernel.
    private func controlFollowed(_ known: InterestRef, _ operation: CInt, _ event: UnsafeMutablePointer<epoll_event>?)
        -> CInt
    {
        let isIn = !known.pointee.isParked
        if operation == EPOLL_CTL_DEL {
            guard isIn else { return fail(ENOENT) }
            known.pointee.set.park(known)
            return 0
        }
        guard let event, KnownMemory.isValid(event, MemoryLayout<epoll_event>.size, forWriting: false) else {
            return fail(EFAULT)
        }
        switch operation {
        case EPOLL_CTL_ADD:
            if isIn { return fail(EEXIST) }
        case EPOLL_CTL_MOD:
            guard isIn else { return fail(ENOENT) }
            if (known.pointee.events | event.pointee.events) & Readiness.exclusive != 0 { return fail(EINVAL) }
        default: return fail(EINVAL)
        }
        known.pointee.set.modify(known, event.pointee.events, libc_epoll_data(event))
        return 0
    }
}

/// A set put into a set: the kernel's work, but that the entry's data is a tag of ours.
private struct NestEntry {
    let set: CInt
    let fd: CInt

    /// With `Readiness.lock` held.
    func control(_ operation: CInt, _ event: UnsafeMutablePointer<epoll_event>?) -> CInt {
        guard DescriptorTable.slot(set).isEpollSet, let outer = EpollSetRef.of(set), let inner = EpollSetRef.of(fd)
        else { return real_epoll_ctl(set, operation, fd, event) }
        let known = NestRef.find(outer, inner, fd)
        if operation == EPOLL_CTL_DEL {
            let result = real_epoll_ctl(set, operation, fd, event)
            if result == 0 { known?.drop(closing: false) }
            return result
        }
        guard operation == EPOLL_CTL_ADD || operation == EPOLL_CTL_MOD, let event,
            KnownMemory.isValid(event, MemoryLayout<epoll_event>.size, forWriting: false)
        else { return real_epoll_ctl(set, operation, fd, event) }
        let (events, data) = (event.pointee.events, libc_epoll_data(event))
        guard
            let nest = known
                ?? EntryPool.take(Nest(outer: outer, inner: inner, fd: fd, events: events, data: data))
        else { return real_epoll_ctl(set, operation, fd, event) }
        // What the kernel finds when it takes the entry must be true.
        if inner.isFollowed {
            inner.makeAnnex()
            inner.settle()
        }
        var tagged = libc_epoll_event(events, nest.data)
        let result = real_epoll_ctl(set, operation, fd, &tagged)
        if result == 0 {
            nest.pointee.events = events
            nest.pointee.data = data
            if known == nil { nest.enter() }
        } else if known == nil {
            EntryPool.give(nest)
        }
        return result
    }
}

@c @implementation
public func switch_epoll_wait(
    _ set: CInt, _ events: UnsafeMutablePointer<epoll_event>?, _ most: CInt, _ timeout: CInt
) -> CInt {
    guard DescriptorTable.slots != nil else { return real_epoll_wait(set, events, most, timeout) }
    return waitForEvents(set, events, most, timeout < 0 ? -1 : Int(timeout) &* 1_000_000, nil) {
        real_epoll_wait(set, events, most, timeout)
    }
}

@c @implementation
public func switch_epoll_pwait(
    _ set: CInt, _ events: UnsafeMutablePointer<epoll_event>?, _ most: CInt, _ timeout: CInt,
    _ mask: UnsafePointer<sigset_t>?
) -> CInt {
    guard DescriptorTable.slots != nil else { return real_epoll_pwait(set, events, most, timeout, mask) }
    return waitForEvents(set, events, most, timeout < 0 ? -1 : Int(timeout) &* 1_000_000, mask) {
        real_epoll_pwait(set, events, most, timeout, mask)
    }
}

@c @implementation
public func switch_epoll_pwait2(
    _ set: CInt, _ events: UnsafeMutablePointer<epoll_event>?, _ most: CInt, _ timeout: UnsafePointer<timespec>?,
    _ mask: UnsafePointer<sigset_t>?
) -> CInt {
    guard DescriptorTable.slots != nil, let limit = duration(timeout) else {
        return real_epoll_pwait2(set, events, most, timeout, mask)
    }
    return waitForEvents(set, events, most, limit, mask) { real_epoll_pwait2(set, events, most, timeout, mask) }
}

/// `timeout` in nanoseconds, negative for none.
private func waitForEvents(
    _ fd: CInt, _ events: UnsafeMutablePointer<epoll_event>?, _ most: CInt, _ timeout: Int,
    _ mask: UnsafePointer<sigset_t>?, _ kernelAlone: () -> CInt
) -> CInt {
    let before = DescriptorTable.slot(fd).epollSet
    guard most > 0, let events else { return kernelAlone() }
    var left = timeout
    if before.map({ $0.pointee.followed.load(ordering: .sequentiallyConsistent) == 0 }) ?? true {
        // No session of the set is on a companion. One that is added or switches over while this thread sleeps wakes it by
        // the set's kick, so what the kernel reports may be ours even if the set was unknown before.
        let begin = timeout > 0 ? libc_nanoseconds() : 0
        let result = kernelAlone()
        guard result > 0, let set = DescriptorTable.slot(fd).epollSet else { return result }
        let kept = set.translate(events, Int(result))
        if kept > 0 { return CInt(truncatingIfNeeded: kept) }
        if timeout > 0 { left = max(0, timeout &- Int(libc_nanoseconds() &- begin)) }
    }
    guard let set = DescriptorTable.slot(fd).epollSet else { return kernelAlone() }
    guard KnownMemory.isValid(events, Int(most) * MemoryLayout<epoll_event>.stride, forWriting: true) else {
        return fail(EFAULT)
    }
    return set.wait(events, Int(most), left, mask)
}
