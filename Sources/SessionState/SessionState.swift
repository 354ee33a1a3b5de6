import Synchronization

/// Which path carries the bytes of one direction. Raw values are part of the shared layout.
public enum Path: UInt32 {
    case kernel = 0
    /// Receiver only: the switch-over is accepted, TCP still holds bytes before its offset.
    case draining = 1
    case companion = 2
    /// Sender only: back on TCP from the switch-back offset on; the receiver may still have ring bytes before it.
    case returned = 3
    /// Receiver only: it has asked the sender to come back to TCP, reads nothing from the ring, and awaits the answer.
    case asking = 4
}

/// One direction of one connection as its own end sees it. Shared by the processes that fork made of one; never by the peer.
/// Fields change under `lock` unless their comment says otherwise.
public struct DirectionState: ~Copyable {
    public static let noOffset = UInt64.max

    /// Thread id of the owner, 0 when free; top bit: somebody waits (SharedLock).
    public let lock: Atomic<UInt32>
    public let path: Atomic<UInt32>
    /// Threads inside a call that may block in the kernel for this direction. Changed without the lock.
    public let inKernel: Atomic<UInt32>
    /// 1 after shutdown of this direction.
    public let isShut: Atomic<UInt32>
    /// Stream offset: bytes moved since connect, both paths.
    public let offset: Atomic<UInt64>
    /// Of these, the bytes that TCP carried.
    public let kernelBytes: Atomic<UInt64>
    /// Stream offsets of the latest path changes; `noOffset` before.
    public let switchOver: Atomic<UInt64>
    public let switchBack: Atomic<UInt64>
    /// The peer's cursor as last read: consumed for the sender, produced for the receiver. Spares the shared cache line.
    public let peerCursor: Atomic<UInt64>
    /// Which ring is in use, and from which offset on (RingShape).
    public let shape: Atomic<UInt64>
    /// Calls that moved bytes; doorbells rung to the peer; waits that slept. For `stat`.
    public let calls: Atomic<UInt64>
    public let doorbells: Atomic<UInt64>
    public let sleeps: Atomic<UInt64>
    /// Sender: the announced or used `over`, 0 for none. Receiver: the latest one accepted (Turn).
    public let turn: Atomic<UInt64>
    /// The number of the latest interval announced, and how many of them were used.
    public let epoch: Atomic<UInt64>
    public let intervals: Atomic<UInt64>
    /// From here to `offset`, bytes of an ended interval wait in the ring to be sent by TCP; `noOffset` for none.
    public let resendFrom: Atomic<UInt64>
    /// No announcement before as many calls: each return to TCP makes the next one rarer.
    public let quietUntil: Atomic<UInt64>

    init() {
        lock = Atomic(0)
        path = Atomic(0)
        inKernel = Atomic(0)
        isShut = Atomic(0)
        offset = Atomic(0)
        kernelBytes = Atomic(0)
        switchOver = Atomic(Self.noOffset)
        switchBack = Atomic(Self.noOffset)
        peerCursor = Atomic(0)
        shape = Atomic(0)
        calls = Atomic(0)
        doorbells = Atomic(0)
        sleeps = Atomic(0)
        turn = Atomic(0)
        epoch = Atomic(0)
        intervals = Atomic(0)
        resendFrom = Atomic(Self.noOffset)
        quietUntil = Atomic(0)
    }
}

/// One connection as its own end sees it: what the processes holding it share, and what `sanswitch stat` reads.
public struct SessionState: ~Copyable {
    public static let stride = 512

    /// 0 free, 1 in use.
    public let inUse: Atomic<UInt32>
    /// 1: this end called connect; 2: it came from accept.
    public let role: Atomic<UInt32>
    public let reason: Atomic<UInt32>
    /// 1 when the description is non-blocking (O_NONBLOCK), as fcntl and ioctl last left it.
    public let isNonBlocking: Atomic<UInt32>
    /// Processes that hold a descriptor; 0 is an empty place. A place whose process has died counts as empty.
    public let holder0: Atomic<UInt32>, holder1: Atomic<UInt32>, holder2: Atomic<UInt32>, holder3: Atomic<UInt32>
    /// Addresses, from when the connection was first looked at; SocketAddress word for word.
    public let localHigh: Atomic<UInt64>, localLow: Atomic<UInt64>
    public let peerHigh: Atomic<UInt64>, peerLow: Atomic<UInt64>
    /// local port << 16 | peer port
    public let ports: Atomic<UInt32>
    /// 1 once more processes hold it than there are holder places.
    public let holdersOverflow: Atomic<UInt32>
    /// SO_RCVTIMEO and SO_SNDTIMEO, nanoseconds, 0 for none; SO_RCVLOWAT, bytes.
    public let receiveTimeout: Atomic<UInt64>, sendTimeout: Atomic<UInt64>
    public let lowWater: Atomic<UInt64>
    /// An error that TCP would have shown and the kernel does not know (the peer died with unread bytes); taken once.
    public let pendingError: Atomic<UInt32>
    /// 1 once the companion has ended.
    public let isEnded: Atomic<UInt32>
    /// Threads of any process that sleep on the doorbell. One that is killed there stays counted, which costs the others a
    /// look every millisecond.
    public let sleepers: Atomic<UInt32>
    /// 1 once a reason holds that lasts: neither direction leaves TCP again.
    public let staysOnTCP: Atomic<UInt32>
    let padding: (UInt64, UInt64)
    public let send: DirectionState
    public let receive: DirectionState

    public init(role: UInt32) {
        inUse = Atomic(1)
        self.role = Atomic(role)
        reason = Atomic(Reason.shortConnection.rawValue)
        isNonBlocking = Atomic(0)
        holder0 = Atomic(0)
        holder1 = Atomic(0)
        holder2 = Atomic(0)
        holder3 = Atomic(0)
        localHigh = Atomic(0)
        localLow = Atomic(0)
        peerHigh = Atomic(0)
        peerLow = Atomic(0)
        ports = Atomic(0)
        holdersOverflow = Atomic(0)
        receiveTimeout = Atomic(0)
        sendTimeout = Atomic(0)
        lowWater = Atomic(1)
        pendingError = Atomic(0)
        isEnded = Atomic(0)
        sleepers = Atomic(0)
        staysOnTCP = Atomic(0)
        padding = (0, 0)
        send = DirectionState()
        receive = DirectionState()
    }
}

/// The head of the memory that holds a process's sessions; the tools find it as a memfd of this name among the
/// process's descriptors, so whoever may look into the process may see its sessions, and nobody else.
public struct SessionPage {
    public static let magic: UInt64 = 0x5341_4e53_4553_5331
    public static let name: StaticString = "sanswitch-sessions"
    public static let headerSize = 4096
    public static let capacity = 65536
    public static let size = headerSize + capacity * SessionState.stride

    public var magic: UInt64
    public var pid: UInt32
    public var stride: UInt32
    /// Slots handed out so far at most; a reader needs to look no further. Written by the owner only.
    public var highWater: UInt64

    public init(pid: UInt32) {
        magic = Self.magic
        self.pid = pid
        stride = UInt32(SessionState.stride)
        highWater = 0
    }
}
