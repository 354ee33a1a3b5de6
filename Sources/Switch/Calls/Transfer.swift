import CLibc
import Libc
import SessionState
import Synchronization

// Calls that move stream bytes: all forms come down to Session.send and Session.receive on a list of buffers.

// The entries proper only look whether there is a session, so that a call without one costs two loads and a jump: what needs a
// stack frame is out of line.

@inline(never)
private func send(_ fd: CInt, _ buffer: UnsafeRawPointer?, _ length: Int, _ flags: CInt) -> Int {
    guard let session = DescriptorTable.hold(fd) else { return Int(real_send(fd, buffer, length, flags)) }
    var vector = iovec(iov_base: UnsafeMutableRawPointer(mutating: buffer), iov_len: length)
    return sendAll(session, of: &vector, 1, flags)
}

@inline(__always)
private func sendAll(_ session: SessionRef, of vectors: UnsafePointer<iovec>, _ count: Int, _ flags: CInt) -> Int {
    defer { session.drop() }
    guard var list = Vectors(vectors, count: count) else { return IOResult.failed(EINVAL).posix }
    return session.send(&list, flags)
}

@inline(never)
private func receive(_ fd: CInt, _ buffer: UnsafeMutableRawPointer?, _ length: Int, _ flags: CInt) -> Int {
    guard let session = DescriptorTable.hold(fd) else { return Int(real_recv(fd, buffer, length, flags)) }
    var vector = iovec(iov_base: buffer, iov_len: length)
    return receiveAll(session, into: &vector, 1, flags)
}

@inline(__always)
private func receiveAll(_ session: SessionRef, into vectors: UnsafePointer<iovec>, _ count: Int, _ flags: CInt) -> Int {
    defer { session.drop() }
    guard var list = Vectors(vectors, count: count) else { return IOResult.failed(EINVAL).posix }
    return session.receive(&list, flags)
}

/// The session of `fd`, held, if the program's list of buffers can be used; else why not. The buffers themselves are checked
/// when they are used.
private enum Listed {
    case session(SessionRef)
    case failed(CInt)
    case none

    @inline(__always)
    init(_ fd: CInt, _ vectors: UnsafePointer<iovec>?, _ count: Int, tooMany: CInt) {
        guard let session = DescriptorTable.hold(fd) else {
            self = .none
            return
        }
        if count < 0 || count > 1024 {
            self = .failed(tooMany)
        } else if count > 0,
            vectors.map({
                !KnownMemory.isValid(
                    UnsafeMutableRawPointer(mutating: $0), count * MemoryLayout<iovec>.stride, forWriting: false)
            }) ?? true
        {
            self = .failed(EFAULT)
        } else {
            self = .session(session)
            return
        }
        session.drop()
    }
}

/// Stands in for the list of a call that has none.
nonisolated(unsafe) private var noVectors = iovec(iov_base: nil, iov_len: 0)

@inline(__always)
private func send(
    _ fd: CInt, _ vectors: UnsafePointer<iovec>?, _ count: Int, _ flags: CInt, tooMany: CInt, _ real: () -> Int
) -> Int {
    switch Listed(fd, vectors, count, tooMany: tooMany) {
    case .none: return real()
    case .failed(let code): return IOResult.failed(code).posix
    case .session(let session):
        guard let vectors else { return withUnsafePointer(to: &noVectors) { sendAll(session, of: $0, 0, flags) } }
        return sendAll(session, of: vectors, count, flags)
    }
}

@inline(__always)
private func receive(
    _ fd: CInt, _ vectors: UnsafePointer<iovec>?, _ count: Int, _ flags: CInt, tooMany: CInt, _ real: () -> Int
) -> Int {
    switch Listed(fd, vectors, count, tooMany: tooMany) {
    case .none: return real()
    case .failed(let code): return IOResult.failed(code).posix
    case .session(let session):
        guard let vectors else { return withUnsafePointer(to: &noVectors) { receiveAll(session, into: $0, 0, flags) } }
        return receiveAll(session, into: vectors, count, flags)
    }
}

/// read(2) and readv(2) of nothing return at once, unlike recv(2).
private func isNothing(_ vectors: UnsafePointer<iovec>?, _ count: CInt) -> Bool {
    guard count >= 0, count <= 1024 else { return false }
    guard count > 0 else { return true }
    guard let vectors,
        KnownMemory.isValid(
            UnsafeMutableRawPointer(mutating: vectors), Int(count) * MemoryLayout<iovec>.stride, forWriting: false)
    else { return false }
    for i in 0..<Int(count) where vectors[i].iov_len != 0 { return false }
    return true
}

// MARK: Sending

@c @implementation
public func switch_send(_ fd: CInt, _ buffer: UnsafeRawPointer?, _ length: Int, _ flags: CInt) -> Int {
    guard DescriptorTable.isSession(fd) else { return real_send(fd, buffer, length, flags) }
    return send(fd, buffer, length, flags)
}

@c @implementation
public func switch_sendto(
    _ fd: CInt, _ buffer: UnsafeRawPointer?, _ length: Int, _ flags: CInt, _ address: UnsafePointer<sockaddr>?,
    _ size: socklen_t
) -> Int {
    guard DescriptorTable.isSession(fd) else { return real_sendto(fd, buffer, length, flags, address, size) }
    if flags & CInt(MSG_FASTOPEN) != 0 { return sendFastOpen(fd, buffer, length, flags, address, size) }
    return send(fd, buffer, length, flags)
}

@inline(never)
private func sendFastOpen(
    _ fd: CInt, _ buffer: UnsafeRawPointer?, _ length: Int, _ flags: CInt, _ address: UnsafePointer<sockaddr>?,
    _ size: socklen_t
) -> Int {
    if let session = DescriptorTable.hold(fd) {
        if session.stage != Session.Stage.attached { session.stayOnKernel(.unsupportedOption) }
        session.drop()
    }
    return Int(real_sendto(fd, buffer, length, flags, address, size))
}

@c @implementation
public func switch_write(_ fd: CInt, _ buffer: UnsafeRawPointer?, _ length: Int) -> Int {
    guard DescriptorTable.isSession(fd) else { return real_write(fd, buffer, length) }
    return send(fd, buffer, length, 0)
}

@c @implementation
public func switch_writev(_ fd: CInt, _ vectors: UnsafePointer<iovec>?, _ count: CInt) -> Int {
    send(fd, vectors, Int(count), 0, tooMany: EINVAL) { real_writev(fd, vectors, count) }
}

@c @implementation
public func switch_pwritev2(_ fd: CInt, _ vectors: UnsafePointer<iovec>?, _ count: CInt, _ offset: off_t, _ flags: CInt)
    -> Int
{
    guard offset == -1, flags & ~8 == 0 else { return real_pwritev2(fd, vectors, count, offset, flags) }
    return send(fd, vectors, Int(count), flags & 8 != 0 ? CInt(MSG_DONTWAIT) : 0, tooMany: EINVAL) {  // RWF_NOWAIT
        real_pwritev2(fd, vectors, count, offset, flags)
    }
}

@c @implementation
public func switch_sendmsg(_ fd: CInt, _ message: UnsafePointer<msghdr>?, _ flags: CInt) -> Int {
    guard let message, DescriptorTable.slots != nil,
        KnownMemory.isValid(UnsafeMutableRawPointer(mutating: message), MemoryLayout<msghdr>.size, forWriting: false)
    else {
        return DescriptorTable.slot(fd).session == nil
            ? real_sendmsg(fd, message, flags) : IOResult.failed(EFAULT).posix
    }
    guard DescriptorTable.slot(fd).session != nil else {
        if message.pointee.msg_controllen > 0 { passDescriptors(message) }
        return real_sendmsg(fd, message, flags)
    }
    guard message.pointee.msg_controllen == 0, flags & CInt(MSG_FASTOPEN) == 0 else {
        return sendWithControl(fd, message, flags)
    }
    return send(fd, message.pointee.msg_iov, message.pointee.msg_iovlen, flags, tooMany: EMSGSIZE) {
        real_sendmsg(fd, message, flags)
    }
}

/// Control data (time stamps, zero copy) is TCP's business: the direction returns there first.
private func sendWithControl(_ fd: CInt, _ message: UnsafePointer<msghdr>, _ flags: CInt) -> Int {
    let session = DescriptorTable.hold(fd)
    session?.leaveSending(.unsupportedOption)
    session?.state.pointee.send.inKernel.wrappingAdd(1, ordering: .sequentiallyConsistent)
    let sent = real_sendmsg(fd, message, flags)
    if let session {
        if sent > 0 { countKernel(session.state.pointee.send, Int(sent)) }
        session.state.pointee.send.inKernel.wrappingSubtract(1, ordering: .sequentiallyConsistent)
        session.drop()
    }
    return Int(sent)
}

/// Descriptors leave this process (SCM_RIGHTS): sessions among them return to TCP, where whoever receives them finds the bytes.
private func passDescriptors(_ message: UnsafePointer<msghdr>) {
    guard KnownMemory.isValid(message.pointee.msg_control, Int(message.pointee.msg_controllen), forWriting: false)
    else { return }
    var copy = message.pointee
    var header = libc_cmsg_first(&copy)
    while let current = header {
        if current.pointee.cmsg_level == SOL_SOCKET, current.pointee.cmsg_type == CInt(SCM_RIGHTS),
            current.pointee.cmsg_len >= libc_cmsg_length(4)
        {
            let data = libc_cmsg_data(current).assumingMemoryBound(to: CInt.self)
            for i in 0..<(Int(current.pointee.cmsg_len) - Int(libc_cmsg_length(0))) / 4 {
                guard let session = DescriptorTable.hold(data[i]) else { continue }
                session.returnToKernel(.exec)
                session.drop()
            }
        }
        header = libc_cmsg_next(&copy, current)
    }
}

@c @implementation
public func switch_sendmmsg(_ fd: CInt, _ messages: UnsafeMutablePointer<mmsghdr>?, _ count: UInt32, _ flags: CInt)
    -> CInt
{
    guard DescriptorTable.slot(fd).session != nil, let messages, count > 0, count <= 1024,
        KnownMemory.isValid(messages, Int(count) * MemoryLayout<mmsghdr>.stride, forWriting: true)
    else { return real_sendmmsg(fd, messages, count, flags) }
    for i in 0..<Int(count) {
        let sent = switch_sendmsg(fd, &messages[i].msg_hdr, flags)
        if sent < 0 { return i > 0 ? CInt(i) : -1 }
        messages[i].msg_len = UInt32(truncatingIfNeeded: sent)
    }
    return CInt(count)
}

// MARK: Receiving

@c @implementation
public func switch_recv(_ fd: CInt, _ buffer: UnsafeMutableRawPointer?, _ length: Int, _ flags: CInt) -> Int {
    guard DescriptorTable.isSession(fd) else { return real_recv(fd, buffer, length, flags) }
    return receive(fd, buffer, length, flags)
}

@c @implementation
public func switch_recvfrom(
    _ fd: CInt, _ buffer: UnsafeMutableRawPointer?, _ length: Int, _ flags: CInt,
    _ address: UnsafeMutablePointer<sockaddr>?,
    _ size: UnsafeMutablePointer<socklen_t>?
) -> Int {
    guard DescriptorTable.isSession(fd) else { return real_recvfrom(fd, buffer, length, flags, address, size) }
    let received = receive(fd, buffer, length, flags)
    // A connected stream has no address to give: the kernel says length 0.
    if received >= 0, address != nil, let size, KnownMemory.isValid(size, 4, forWriting: true) { size.pointee = 0 }
    return received
}

@c @implementation
public func switch_read(_ fd: CInt, _ buffer: UnsafeMutableRawPointer?, _ length: Int) -> Int {
    guard DescriptorTable.isSession(fd), length != 0 else { return real_read(fd, buffer, length) }
    return receive(fd, buffer, length, 0)
}

@c @implementation
public func switch_readv(_ fd: CInt, _ vectors: UnsafePointer<iovec>?, _ count: CInt) -> Int {
    if DescriptorTable.slot(fd).session != nil, isNothing(vectors, count) { return 0 }
    return receive(fd, vectors, Int(count), 0, tooMany: EINVAL) { real_readv(fd, vectors, count) }
}

@c @implementation
public func switch_preadv2(_ fd: CInt, _ vectors: UnsafePointer<iovec>?, _ count: CInt, _ offset: off_t, _ flags: CInt)
    -> Int
{
    guard offset == -1, flags & ~8 == 0 else { return real_preadv2(fd, vectors, count, offset, flags) }
    if DescriptorTable.slot(fd).session != nil, isNothing(vectors, count) { return 0 }
    return receive(fd, vectors, Int(count), flags & 8 != 0 ? CInt(MSG_DONTWAIT) : 0, tooMany: EINVAL) {
        real_preadv2(fd, vectors, count, offset, flags)
    }
}

@c @implementation
public func switch_recvmsg(_ fd: CInt, _ message: UnsafeMutablePointer<msghdr>?, _ flags: CInt) -> Int {
    guard DescriptorTable.slot(fd).session != nil, flags & CInt(MSG_ERRQUEUE) == 0 else {
        return real_recvmsg(fd, message, flags)
    }
    guard let message, KnownMemory.isValid(message, MemoryLayout<msghdr>.size, forWriting: true) else {
        return IOResult.failed(EFAULT).posix
    }
    if message.pointee.msg_controllen > 0, let session = DescriptorTable.hold(fd) {
        if session.stage != Session.Stage.attached { return receiveWithControl(session, message, flags) }
        session.drop()
    }
    let received = receive(fd, message.pointee.msg_iov, message.pointee.msg_iovlen, flags, tooMany: EMSGSIZE) {
        real_recvmsg(fd, message, flags)
    }
    if received >= 0 {
        message.pointee.msg_namelen = 0
        message.pointee.msg_controllen = 0
        message.pointee.msg_flags = 0
    }
    return received
}

/// A caller that wants control data (time stamps) has it from TCP, as long as TCP carries the bytes.
private func receiveWithControl(_ session: SessionRef, _ message: UnsafeMutablePointer<msghdr>, _ flags: CInt) -> Int {
    defer { session.drop() }
    let direction = session.state
    direction.pointee.receive.inKernel.wrappingAdd(1, ordering: .sequentiallyConsistent)
    defer { direction.pointee.receive.inKernel.wrappingSubtract(1, ordering: .sequentiallyConsistent) }
    let received = Int(real_recvmsg(session.descriptor, message, flags))
    if received > 0, flags & CInt(MSG_PEEK | MSG_OOB) == 0 { countKernel(direction.pointee.receive, received) }
    return received
}

@c @implementation
public func switch_recvmmsg(
    _ fd: CInt, _ messages: UnsafeMutablePointer<mmsghdr>?, _ count: UInt32, _ flags: CInt,
    _ timeout: UnsafeMutablePointer<timespec>?
) -> CInt {
    guard DescriptorTable.slot(fd).session != nil, let messages, count > 0, count <= 1024,
        KnownMemory.isValid(messages, Int(count) * MemoryLayout<mmsghdr>.stride, forWriting: true)
    else { return real_recvmmsg(fd, messages, count, flags, timeout) }
    let waitForOne: CInt = 0x10000  // MSG_WAITFORONE
    var rest = flags & ~waitForOne
    for i in 0..<Int(count) {
        let received = switch_recvmsg(fd, &messages[i].msg_hdr, rest)
        if received < 0 { return i > 0 ? CInt(i) : -1 }
        messages[i].msg_len = UInt32(truncatingIfNeeded: received)
        if received == 0 { return CInt(i + 1) }
        if flags & waitForOne != 0 { rest |= CInt(MSG_DONTWAIT) }
    }
    return CInt(count)
}
