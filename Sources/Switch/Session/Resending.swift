import Libc
import Synchronization

/// Ring bytes that a receiver could not take and that TCP could not take at once: the switch thread goes on where the program's calls left off.
enum Resending {
    private static let periodMilliseconds: CInt = 5
    private static let sessions = Atomic<Int>(0)

    /// How long the switch thread may sleep.
    static func timeout(_ other: CInt) -> CInt {
        guard sessions.load(ordering: .relaxed) > 0 else { return other }
        return other < 0 ? periodMilliseconds : min(other, periodMilliseconds)
    }

    static func isNeeded() {
        if sessions.exchange(1, ordering: .relaxed) == 0 { Broker.rouse() }
    }

    /// One round over all sessions.
    static func look() {
        guard sessions.load(ordering: .relaxed) > 0 else { return }
        sessions.store(0, ordering: .relaxed)
        var left = 0
        for fd in 0..<DescriptorTable.highWater {
            guard let session = DescriptorTable.hold(fd) else { continue }
            if session.descriptor == fd, session.stage == Session.Stage.attached {
                session.sending.lock()
                if !session.hasSentAgain() { left &+= 1 }
                session.sending.unlock()
            }
            session.drop()
        }
        if left > 0 { sessions.store(left, ordering: .relaxed) }
    }

    /// The child of a fork starts with its own count.
    static func forgetInChild() { sessions.store(0, ordering: .relaxed) }
}
