import CLibc
import Libc
import SessionState
import Synchronization

/// What one epoll instance wants to know of one session through one descriptor: an entry of the kernel's own set, and from the
/// switch-over on our side of it.
struct Interest {
    var set: EpollSetRef
    var session: SessionRef
    var fd: CInt
    /// As the program gave them.
    var events: UInt32
    var data: UInt64
    /// The kernel entry reports to us (data is a tag of ours), and the doorbell is in the set.
    var isFollowed = false
    /// EPOLLONESHOT has fired.
    var isDisabled = false
    /// The program took the entry out (EPOLL_CTL_DEL); the kernel's stays, so that putting it back costs no system call.
    var isParked = false
    /// Something happened that an edge-triggered interest must hear of.
    var hasEdge = false
    /// The kernel had something to say of the TCP socket.
    var askKernel = false
    var isHot = false
    /// A hot session whose peer was asked to ring, because this set's thread goes to sleep.
    var isArmed = false
    /// Looks in a row that found nothing.
    var misses: UInt32 = 0
    /// For edges: the producer cursor and the blocked sends last reported.
    var seenProduced: UInt64 = 0
    var seenBlocked: UInt32 = 0
    /// What the last report knew of, and whether a kernel event of no more than that is still to come.
    var told: UInt32 = 0
    var isAhead = false
    /// For edges of the outer sets: what the kernel said since they were last told; whether they were told that this one is
    /// ready, and at which producer cursor.
    var isNews = false
    var isShown = false
    var shownProduced: UInt64 = 0
    var nextOfSession: InterestRef?
    var nextHot: InterestRef?
    var previousHot: InterestRef?
    /// In the set's list, and in the pool's.
    var nextOfSet: InterestRef?
}

typealias InterestRef = UnsafeMutablePointer<Interest>

extension UnsafeMutablePointer where Pointee == Interest {
    /// Whether an event is due; changes nothing.
    @inline(__always)
    var isReady: Bool {
        // The common case, in few loads: level-triggered, waiting for input only.
        let session = pointee.session
        if isPlain, session.receivesOnCompanion, let inbox = session.pointee.inbox {
            let state = session.state
            let produced = inbox.pointee.produced.load(ordering: .acquiring)
            if produced == state.pointee.receive.offset.load(ordering: .relaxed), !session.hasEnded,
                !session.isAtIntervalEnd
            {
                return false
            }
        }
        return isReadyInFull
    }

    /// Level-triggered, waiting for input only, and the kernel has nothing to say.
    private var isPlain: Bool {
        pointee.events & (Readiness.edge | Readiness.output) == 0 && !pointee.isDisabled && !pointee.askKernel
    }

    @inline(never)
    private var isReadyInFull: Bool {
        if pointee.isDisabled { return false }
        if pointee.events & Readiness.edge != 0, !hasEdge { return false }
        return due != 0
    }

    private var due: UInt32 { readiness & wanted }

    private var wanted: UInt32 {
        pointee.events & ~(Readiness.edge | Readiness.oneShot | Readiness.exclusive) | Readiness.always
    }

    private var readiness: UInt32 {
        if pointee.askKernel { forgetKernelIfQuiet() }
        return pointee.session.readiness(askKernel: pointee.askKernel)
    }

    /// Both directions have ended, and the program knows: whatever path they are on, only an error can be new.
    var isOver: Bool { pointee.told & UInt32(EPOLLHUP.rawValue) != 0 }

    /// The kernel has an event for the TCP socket. It is no edge if it only tells of an end that the companion told of first.
    func hear(_ bits: UInt32) {
        let isKnown = pointee.isAhead && bits & ~pointee.told == 0
        pointee.askKernel = true
        pointee.isAhead = false
        guard !isKnown else { return }
        pointee.hasEdge = true
        if bits & wanted != 0, !pointee.isDisabled { pointee.isNews = true }
    }

    /// Asks the kernel only as long as it has something to say that the ring does not know.
    private func forgetKernelIfQuiet() {
        let session = pointee.session
        var interesting = Readiness.readHangup | Readiness.always | Readiness.priority
        if !session.receivesOnCompanion { interesting |= Readiness.input }
        if !session.sendsOnCompanion { interesting |= Readiness.output & pointee.events }
        if session.kernelReadiness() & interesting == 0 { pointee.askKernel = false }
    }

    private var produced: UInt64 { pointee.session.pointee.inbox?.pointee.produced.load(ordering: .acquiring) ?? 0 }

    /// Bytes that arrive are an event only to those who asked for input of a kind, as in the kernel.
    private var hearsOfInput: Bool {
        pointee.events & (Readiness.input | Readiness.priority | UInt32(EPOLLRDBAND.rawValue)) != 0
            && !pointee.isDisabled && !pointee.isParked
    }

    private var hasEdge: Bool {
        let session = pointee.session
        if pointee.hasEdge { return true }
        if hearsOfInput, session.pointee.inbox != nil, produced != pointee.seenProduced { return true }
        if session.hasEnded, !pointee.askKernel { return true }
        return session.pointee.blockedSends.load(ordering: .relaxed) != pointee.seenBlocked && session.maySend
    }

    /// The event to report now, 0 for none; an edge or a one-shot is used up by it.
    func report() -> UInt32 {
        guard isReady else { return 0 }
        let session = pointee.session
        // The cursor first: bytes that arrive after this look are a new edge.
        let produced = produced
        let blocked = session.pointee.blockedSends.load(ordering: .relaxed)
        if session.hasEnded, !pointee.askKernel {
            pointee.askKernel = true
            pointee.isAhead = !pointee.hasEdge
        }
        let all = readiness
        let bits = all & wanted
        guard bits != 0 else { return 0 }
        pointee.told = pointee.isAhead ? all & (Readiness.readHangup | Readiness.always) : all
        pointee.hasEdge = false
        pointee.seenProduced = produced
        if bits & Readiness.output != 0 { pointee.seenBlocked = blocked }
        if pointee.events & Readiness.oneShot != 0 { pointee.isDisabled = true }
        return bits
    }

    /// Whether there is something that outer sets have not been told of.
    func isNews(isReady: Bool) -> Bool {
        let produced = produced
        let isNews =
            pointee.isNews || (isReady && !pointee.isShown)
            || (hearsOfInput && pointee.session.pointee.inbox != nil && produced != pointee.shownProduced)
        pointee.isNews = false
        pointee.isShown = isReady
        pointee.shownProduced = produced
        return isNews
    }

    /// The program's own change of the entry: what came before it is no edge, if only it is not ready.
    func forgetNews() { pointee.shownProduced = produced }
}
