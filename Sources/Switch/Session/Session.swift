import CLibc
import CProvider
import Libc
import SessionState
import Synchronization
import Wire

/// One TCP connection of this process: the descriptor that the program holds, the state it shares with forked relatives, and
/// the companion once there is one.
///
/// Lifetime: `holds` counts the descriptor numbers that name it and the calls inside it. Whoever takes it to zero ends the
/// session and returns it to the pool. Pool memory is never unmapped, so a stale pointer may be looked at (DescriptorTable.hold).
struct Session: ~Copyable {
    enum Stage {
        /// On TCP, may still find a companion.
        static let fresh: UInt32 = 0
        /// One thread looks for the companion right now.
        static let looking: UInt32 = 1
        /// Proposed or claimed; the answer is awaited.
        static let pending: UInt32 = 2
        /// The companion is there; each direction switches over by itself.
        static let attached: UInt32 = 3
        /// On TCP for good.
        static let kernel: UInt32 = 4
    }

    /// `descriptor` of a session whose last number is closed while calls are still inside: EBADF to every real call.
    static let closedDescriptor: CInt = -2

    let holds = Atomic<UInt32>(0)
    /// Descriptor numbers of this process that name it; part of `holds`.
    let descriptors = Atomic<UInt32>(0)
    let stage = Atomic<UInt32>(Stage.fresh)
    /// One of the descriptor numbers that reach the TCP socket; changes when that number is closed and another remains.
    let descriptor = Atomic<CInt>(-1)
    /// Guards the companion's arrival and the memberships in epoll sets.
    let setup = Atomic<UInt32>(0)
    nonisolated(unsafe) var state: StateRef
    nonisolated(unsafe) var tuple = ConnectionTuple(
        local: SocketAddress(high: 0, low: 0, port: 0), peer: SocketAddress(high: 0, low: 0, port: 0))
    nonisolated(unsafe) var nonce: (UInt64, UInt64) = (0, 0)
    /// StoredOptions of the socket.
    let options = Atomic<UInt32>(0)
    /// Calls before the next look for a companion.
    let nextLook = Atomic<UInt64>(0)

    // Written before `stage` becomes attached (release), read after (acquire).
    nonisolated(unsafe) var companion: san_socket = 0
    /// Whose companion it is; valid at any time.
    nonisolated(unsafe) var provider: ProviderRef
    /// The provider has not said yet whether the companion is connected.
    nonisolated(unsafe) var isConnecting = false
    /// The descriptor whose readability means: a doorbell, or the end of the companion.
    nonisolated(unsafe) var doorbell: CInt = -1
    /// What the peer writes; what I write.
    nonisolated(unsafe) var inbox: InboxRef?
    nonisolated(unsafe) var outbox: InboxRef?
    /// Bytes of the large ring behind each.
    nonisolated(unsafe) var inboxRing: UInt64 = 0
    nonisolated(unsafe) var outboxRing: UInt64 = 0
    /// The send offset at the last look for idle rings.
    let offsetAtLook = Atomic<UInt64>(0)
    /// The consumer cursor that the peer was last told, where it must be told (Push.swift).
    let creditShown = Atomic<UInt64>(0)
    /// When the sender last made sure that the peer lives, ticks.
    let livenessChecked = Atomic<UInt64>(0)

    /// Doorbells that epoll reported and nobody silenced.
    nonisolated(unsafe) var unsilenced: UInt32 = 0
    /// Epoll interests in this session, under `Readiness.lock`.
    nonisolated(unsafe) var interests: InterestRef?
    /// Grows each time a non-blocking send found the ring full: writability is an edge from then on.
    let blockedSends = Atomic<UInt32>(0)
    nonisolated(unsafe) var nextInPool: SessionRef?
    nonisolated(unsafe) var nextClaim: SessionRef?
    nonisolated(unsafe) var previousClaim: SessionRef?
    /// Pieces that large writes are still cut into while the peer's answer is awaited; then they go out whole.
    let patience = Atomic<UInt32>(0)
    /// Server: where the connection was accepted; the broker of that address knows the proposals.
    nonisolated(unsafe) var listener: ListenerRef?
    nonisolated(unsafe) var isClaimed = false

    init(state: StateRef, provider: ProviderRef) {
        self.state = state
        self.provider = provider
    }
}

typealias SessionRef = UnsafeMutablePointer<Session>

/// Sessions not in use. Blocks are mapped and never given back.
enum SessionPool {
    nonisolated(unsafe) private static var free: SessionRef?
    /// A multiple of the slot tag's alignment and of a cache line.
    static let stride = (MemoryLayout<Session>.size + 127) & ~127

    static func take(_ state: StateRef) -> SessionRef? {
        guardian.lock()
        defer { guardian.unlock() }
        if free == nil {
            let length = 64 << 10
            guard let provider = Providers.embedded, let block = sys_map(length, -1, MAP_PRIVATE | MAP_ANONYMOUS)
            else { return nil }
            for i in (0..<length / stride).reversed() {
                let session = (block + i * stride).assumingMemoryBound(to: Session.self)
                session.initialize(to: Session(state: state, provider: provider))
                session.pointee.nextInPool = free
                free = session
            }
        }
        let session = free.unsafelyUnwrapped
        free = session.pointee.nextInPool
        return session
    }

    static func give(_ session: SessionRef) {
        guardian.lock()
        session.pointee.nextInPool = free
        free = session
        guardian.unlock()
    }
}

extension UnsafeMutablePointer where Pointee == Session {
    @inline(__always) var state: StateRef { pointee.state }
    @inline(__always) var descriptor: CInt { pointee.descriptor.load(ordering: .relaxed) }
    @inline(__always) var stage: UInt32 { pointee.stage.load(ordering: .acquiring) }
    @inline(__always) var sending: SharedLock {
        SharedLock(
            word: UnsafeMutableRawPointer(state).advanced(by: SessionLayout.send).assumingMemoryBound(
                to: Atomic<UInt32>.self))
    }
    @inline(__always) var receiving: SharedLock {
        SharedLock(
            word: UnsafeMutableRawPointer(state).advanced(by: SessionLayout.receive).assumingMemoryBound(
                to: Atomic<UInt32>.self))
    }

    /// A session for the connected or connecting `fd`, in place in the table; nil leaves the descriptor unknown, on TCP.
    @discardableResult
    static func open(_ fd: CInt, role: UInt32) -> SessionRef? {
        guard UInt32(bitPattern: fd) < UInt32(DescriptorTable.capacity), let state = SessionArena.allocate(role: role)
        else { return nil }
        guard let session = SessionPool.take(state) else {
            SessionArena.release(state)
            return nil
        }
        session.pointee.state = state
        session.pointee.tuple = ConnectionTuple(
            local: SocketAddress(high: 0, low: 0, port: 0), peer: SocketAddress(high: 0, low: 0, port: 0))
        session.pointee.livenessChecked.store(0, ordering: .relaxed)
        session.pointee.unsilenced = 0
        session.pointee.creditShown.store(0, ordering: .relaxed)
        session.pointee.nextLook.store(settings.afterCalls, ordering: .relaxed)
        session.pointee.stage.store(Session.Stage.fresh, ordering: .releasing)
        // The hold before the number: a stale reader's drop must find the session in use.
        session.pointee.holds.wrappingAdd(1, ordering: .acquiringAndReleasing)
        session.pointee.descriptors.store(1, ordering: .relaxed)
        session.pointee.descriptor.store(fd, ordering: .releasing)
        session.pointee.options.store(DescriptorTable.slot(fd).options.bits, ordering: .relaxed)
        DescriptorTable.exchange(fd, Slot(session))
        return session
    }

    /// Ends a hold; the last one ends the session.
    @inline(__always)
    func drop() {
        if pointee.holds.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue == 0 { end() }
    }

    /// No descriptor of this process names the session any more and no call is inside.
    @inline(never)
    private func end() {
        // A pooled session that a stale reader touched and dropped has nothing left to end.
        guard pointee.descriptor.exchange(-1, ordering: .acquiringAndReleasing) != -1 else { return }
        Broker.withdraw(self)
        if let listener = pointee.listener { Listeners.left(listener) }
        pointee.listener = nil
        leaveEpollSets()
        releaseCompanion()
        SessionArena.release(state)
        SessionPool.give(self)
    }

    /// Unmaps the rings and closes the companion.
    func releaseCompanion() {
        if let inbox = pointee.inbox {
            pointee.provider.unmap(inbox, Limits.exposed(pointee.inboxRing))
        }
        if let outbox = pointee.outbox {
            pointee.provider.unmap(outbox, Limits.exposed(pointee.outboxRing))
        }
        pointee.inbox = nil
        pointee.outbox = nil
        if pointee.companion != 0 {
            Broker.unfollow(self)
            pointee.provider.close(pointee.companion)
        }
        pointee.isConnecting = false
        pointee.companion = 0
        pointee.doorbell = -1
    }

    /// Stays on TCP from now on.
    func stayOnKernel(_ reason: Reason) {
        state.pointee.reason.store(reason.rawValue, ordering: .relaxed)
        pointee.stage.store(Session.Stage.kernel, ordering: .releasing)
        log("stays on TCP, reason", descriptor, UInt64(reason.rawValue))
    }

    func explain(_ reason: Reason) { state.pointee.reason.store(reason.rawValue, ordering: .relaxed) }
}

/// Where the two directions lie in SessionState; asserted by a test against the layout the compiler chose.
enum SessionLayout {
    static let send = 128
    static let receive = 256
}

extension DirectionState {
    @inline(__always) var onPath: Path { Path(rawValue: path.load(ordering: .relaxed)) ?? .kernel }
}

/// Counts `count` bytes that TCP carried in a direction.
@inline(__always)
func countKernel(_ direction: borrowing DirectionState, _ count: Int) {
    direction.offset.wrappingAdd(UInt64(truncatingIfNeeded: count), ordering: .relaxed)
    direction.kernelBytes.wrappingAdd(UInt64(truncatingIfNeeded: count), ordering: .relaxed)
    direction.calls.wrappingAdd(1, ordering: .relaxed)
}
