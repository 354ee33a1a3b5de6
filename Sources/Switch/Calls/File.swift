import CLibc
import Libc
import SessionState
import Synchronization

// sendfile(2), splice(2): bytes between a stream and a file or pipe.

@c @implementation
public func switch_sendfile(_ out: CInt, _ input: CInt, _ offset: UnsafeMutablePointer<off_t>?, _ length: Int) -> Int {
    guard let session = DescriptorTable.hold(out) else { return real_sendfile(out, input, offset, length) }
    defer { session.drop() }
    if session.stage != Session.Stage.attached {
        session.lookForCompanion()
        if let sent = session.throughKernel({ real_sendfile(out, input, offset, length) }) { return sent }
    }
    if let offset, !KnownMemory.isValid(offset, 8, forWriting: true) { return IOResult.failed(EFAULT).posix }
    return sendFile(session, input, offset, length)
}

extension UnsafeMutablePointer where Pointee == Session {
    /// A sending call that the kernel does by itself, counted; nil when the companion arrived meanwhile.
    fileprivate func throughKernel(_ call: () -> Int) -> Int? {
        state.pointee.send.inKernel.wrappingAdd(1, ordering: .sequentiallyConsistent)
        defer { state.pointee.send.inKernel.wrappingSubtract(1, ordering: .sequentiallyConsistent) }
        if pointee.stage.load(ordering: .sequentiallyConsistent) == Session.Stage.attached { return nil }
        let sent = call()
        if sent > 0 { countKernel(state.pointee.send, sent) }
        return sent
    }
}

/// Read where the file is, send, and move the position by what was really sent.
private func sendFile(_ session: SessionRef, _ input: CInt, _ offset: UnsafeMutablePointer<off_t>?, _ length: Int)
    -> Int
{
    var position = offset?.pointee ?? lseek(input, 0, SEEK_CUR)
    if position < 0 { return -1 }
    let piece = 128 << 10
    var done = 0
    let error: CInt = withUnsafeTemporaryAllocation(byteCount: piece, alignment: 64) { buffer in
        while done < length {
            let count = sys_pread(input, buffer.baseAddress, min(piece, length &- done), position)
            if count < 0 { return CInt(-count) }
            if count == 0 { return 0 }
            var vector = iovec(iov_base: buffer.baseAddress, iov_len: count)
            guard var list = Vectors(&vector, count: 1) else { return EINVAL }
            let sent = session.send(&list, 0)
            if sent < 0 { return libc_errno() }
            done &+= sent
            position &+= off_t(sent)
            if sent < count { return 0 }
        }
        return 0
    }
    if let offset { offset.pointee = position } else { _ = lseek(input, position, SEEK_SET) }
    return done > 0 || error == 0 ? done : IOResult.failed(error).posix
}

@c @implementation
public func switch_splice(
    _ input: CInt, _ inOffset: UnsafeMutablePointer<off64_t>?, _ out: CInt, _ outOffset: UnsafeMutablePointer<off64_t>?,
    _ length: Int,
    _ flags: UInt32
) -> Int {
    if let session = DescriptorTable.hold(out) {
        defer { session.drop() }
        // Bytes in a pipe cannot be put back if the ring has no room: this direction goes by TCP.
        session.leaveSending(.unsupportedOption)
        session.state.pointee.send.inKernel.wrappingAdd(1, ordering: .sequentiallyConsistent)
        defer { session.state.pointee.send.inKernel.wrappingSubtract(1, ordering: .sequentiallyConsistent) }
        let sent = real_splice(input, inOffset, out, outOffset, length, flags)
        if sent > 0 { countKernel(session.state.pointee.send, sent) }
        return sent
    }
    guard let session = DescriptorTable.hold(input) else {
        return real_splice(input, inOffset, out, outOffset, length, flags)
    }
    defer { session.drop() }
    if session.stage != Session.Stage.attached {
        session.state.pointee.receive.inKernel.wrappingAdd(1, ordering: .sequentiallyConsistent)
        defer { session.state.pointee.receive.inKernel.wrappingSubtract(1, ordering: .sequentiallyConsistent) }
        if session.pointee.stage.load(ordering: .sequentiallyConsistent) != Session.Stage.attached {
            let received = real_splice(input, inOffset, out, outOffset, length, flags)
            if received > 0 { countKernel(session.state.pointee.receive, received) }
            return received
        }
    }
    return spliceOut(session, out, length, CInt(bitPattern: flags))
}

/// Looks at bytes of the stream, writes them to the pipe, then takes as many as the pipe took.
private func spliceOut(_ session: SessionRef, _ out: CInt, _ length: Int, _ flags: CInt) -> Int {
    let nonBlocking: CInt = flags & 2 != 0 ? CInt(MSG_DONTWAIT) : 0  // SPLICE_F_NONBLOCK
    let piece = 64 << 10
    return withUnsafeTemporaryAllocation(byteCount: piece, alignment: 64) { buffer in
        var vector = iovec(iov_base: buffer.baseAddress, iov_len: min(piece, length))
        guard var list = Vectors(&vector, count: 1) else { return IOResult.failed(EINVAL).posix }
        let seen = session.receive(&list, CInt(MSG_PEEK) | nonBlocking)
        if seen <= 0 { return seen }
        let written = Int(real_write(out, buffer.baseAddress, seen))
        if written <= 0 { return written }
        vector.iov_len = written
        guard var taken = Vectors(&vector, count: 1) else { return IOResult.failed(EINVAL).posix }
        return session.receive(&taken, CInt(MSG_WAITALL))
    }
}
