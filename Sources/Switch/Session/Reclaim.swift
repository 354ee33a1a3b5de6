import CLibc
import Libc
import SessionState
import Synchronization
import Wire

/// Gives the memory of large rings back when their connections fall idle. The switch thread looks every other second while there
/// are large rings, and sleeps for good when there are none.
enum Reclaim {
    static let periodMilliseconds: CInt = 2000

    /// Large rings in use by this process's senders, at least; 0 lets the thread sleep.
    private static let grown = Atomic<Int>(0)
    private static var isNeeded: Bool { grown.load(ordering: .relaxed) > 0 }

    /// How long the switch thread may sleep.
    static func timeout(_ other: CInt) -> CInt {
        isNeeded ? (other < 0 ? periodMilliseconds : min(other, periodMilliseconds)) : other
    }

    static func ringGrew() {
        if grown.wrappingAdd(1, ordering: .relaxed).oldValue == 0 { Broker.rouse() }
    }

    /// One round over all sessions.
    static func look() {
        guard isNeeded else { return }
        var left = 0
        for fd in 0..<DescriptorTable.highWater {
            guard let session = DescriptorTable.hold(fd) else { continue }
            if session.descriptor == fd, session.sendsOnCompanion {
                if session.hasBeenIdle { session.shrinkIfIdle() }
                if RingShape(word: session.state.pointee.send.shape.load(ordering: .relaxed)).isLarge { left &+= 1 }
            }
            session.drop()
        }
        grown.store(left, ordering: .relaxed)
    }

    /// The child of a fork starts with its own count.
    static func forgetInChild() { grown.store(0, ordering: .relaxed) }
}

extension UnsafeMutablePointer where Pointee == Session {
    /// Whether nothing was sent since the last round.
    fileprivate var hasBeenIdle: Bool {
        let offset = state.pointee.send.offset.load(ordering: .relaxed)
        return pointee.offsetAtLook.exchange(offset, ordering: .relaxed) == offset
    }

    /// Back to the small ring, if everything sent has been taken; the large one's pages go back to the system. The peer reads
    /// nothing there until this side sends again, and this side sends under the lock held here.
    func shrinkIfIdle() {
        sending.lock()
        defer { sending.unlock() }
        let shape = RingShape(word: state.pointee.send.shape.load(ordering: .relaxed))
        let offset = state.pointee.send.offset.load(ordering: .relaxed)
        guard sendsOnCompanion, shape.isLarge, consumedByPeer == offset, let outbox = pointee.outbox else { return }
        _ = use(RingShape(isLarge: false, from: offset))
        let large = UnsafeMutableRawPointer(outbox) + Limits.inboxHeader + Int(Limits.smallRing)
        _ = sys_madvise(large, Int(pointee.outboxRing), CInt(MADV_REMOVE))
    }
}
