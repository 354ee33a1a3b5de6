import CLibc
import CProvider
import Libc
import Synchronization

/// The doorbell: the worker turns notifications into a byte on a local socket pair, of which the program waits at the near end. So
/// waiting, signals, time limits and the end are the same as on `shm`.
///
/// A notification is granted by the receiver, one at a time: the first by the connection itself, the next when the program has
/// silenced the one before and sends something, or is about to sleep. Until then the sender only writes, since a doorbell that
/// rings need not be rung. The grant goes through the sender's send queue behind everything it has written, so that nothing is left unsaid: words that went out
/// without a notification are followed by one as soon as the grant arrives.
extension UnsafeMutablePointer where Pointee == Link {
    /// Makes the near end readable: each time by a byte more, an event of its own for those who wait for edges. The worker's.
    func ring() {
        guard pointee.far >= 0 else { return }
        var byte: UInt8 = 1
        _ = sys_send(pointee.far, &byte, 1, CInt(MSG_DONTWAIT | MSG_NOSIGNAL))
    }

    /// Takes the doorbells that have arrived: 1, 0, or -EPIPE at the end.
    func silence() -> CInt {
        var bytes = InlineArray<16, UInt64>(repeating: 0)
        let near = pointee.near
        var count = 0
        repeat {
            count = withUnsafeMutableBytes(of: &bytes) { sys_recv(near, $0.baseAddress!, $0.count, CInt(MSG_DONTWAIT)) }
        } while count == MemoryLayout<InlineArray<16, UInt64>>.size
        // After the bytes: a doorbell that comes now has a byte of its own.
        if pointee.hasNotification.exchange(0, ordering: .sequentiallyConsistent) != 0, !Rdma.isForeign { owe() }
        return count > 0 ? 1 : count == -Int(EAGAIN) || count == -Int(EINTR) ? 0 : -EPIPE
    }

    /// The next grant goes with what is pushed next, or before the program sleeps.
    private func owe() {
        if pointee.lock.isMine { return pointee.hasNotification.store(1, ordering: .relaxed) }
        pointee.lock.lock()
        pointee.flow.owesGrant = true
        pointee.lock.unlock()
    }

    /// The program is about to sleep until the near end is readable.
    func prepareToSleep() -> CInt {
        guard !Rdma.isForeign, !pointee.lock.isMine else { return -EPIPE }
        pointee.lock.lock()
        defer { pointee.lock.unlock() }
        guard pointee.phase.load(ordering: .relaxed) == Link.Phase.established, !pointee.flow.isBroken else {
            return -EPIPE
        }
        // Who waits for edges need not have silenced the last one.
        if pointee.hasNotification.exchange(0, ordering: .sequentiallyConsistent) != 0 { pointee.flow.owesGrant = true }
        if pointee.flow.hasSignal { flush() }
        if pointee.flow.used > 0 { Worker.watchSends() }
        return 0
    }

    /// Blocks as recv(2) on the connection would: interrupted or restarted by a signal as the kernel decides (SA_RESTART).
    func wait() -> CInt {
        _ = prepareToSleep()
        var byte: UInt8 = 0
        return CInt(truncatingIfNeeded: min(0, sys_recv(pointee.near, &byte, 1, CInt(MSG_PEEK))))
    }
}
