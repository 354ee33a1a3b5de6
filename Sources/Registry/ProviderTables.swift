import CLibc
import CProvider
import Libc

/// Why a provider is not used.
public struct Refusal {
    public enum Cause: UInt32, CaseIterable {
        case noLibrary, noStartup, wrongVersion, notStarted, shortTable, missingFunction, otherProvider, badAnswer,
            unknownBuiltIn
        case tooMany

        /// For people; `Refusal.what` and `number` say more.
        public var text: StaticString {
            switch self {
            case .noLibrary: "its library cannot be loaded"
            case .noStartup: "its library does not export san_startup_ex"
            case .wrongVersion: "it does not speak this version of the interface"
            case .notStarted: "it failed to start"
            case .shortTable: "its function table is too short"
            case .missingFunction: "it lacks a mandatory function"
            case .otherProvider: "its library is another provider: the guid differs"
            case .badAnswer: "it does not tell an absent optional function from an unknown one"
            case .unknownBuiltIn: "no provider of this name is built in"
            case .tooMany: "there are too many providers"
            }
        }
    }

    public let cause: Cause
    /// The mandatory function that is missing.
    public let what: StaticString
    /// An errno value, positive; 0 when there is none.
    public let number: CInt

    public init(_ cause: Cause, what: StaticString = "", number: CInt = 0) {
        (self.cause, self.what, self.number) = (cause, what, number)
    }
}

/// What start-up fills, and the extension functions that are fetched afterwards. Used by the switch and by the tools alike, so
/// that `sanswitch doctor` refuses what the switch refuses.
public struct ProviderTables {
    public typealias Startup = (
        UInt32, UnsafePointer<san_protocol>, UnsafePointer<san_upcalls>, UnsafeMutablePointer<san_functions>,
        UnsafeMutablePointer<san_provider_info>
    ) -> CInt
    public typealias Symbol =
        @convention(c) (
            UInt32, UnsafePointer<san_protocol>?, UnsafePointer<san_upcalls>?, UnsafeMutablePointer<san_functions>?,
            UnsafeMutablePointer<san_provider_info>?
        ) -> CInt

    public var functions = san_functions()
    public var direct = san_direct_memory()
    public var info = san_provider_info()

    public init() {}

    /// TCP's identity, by which a provider knows that the switch calls it.
    public static var tcp: san_protocol {
        san_protocol(family: AF_INET, type: CInt(SOCK_STREAM.rawValue), protocol: CInt(IPPROTO_TCP))
    }

    /// Loads a library and returns its start-up entry. The library stays loaded: sessions may point into it for ever.
    public static func symbol(of library: UnsafePointer<CChar>) -> (Symbol?, Refusal?) {
        guard let handle = dlopen(library, RTLD_NOW | RTLD_LOCAL) else { return (nil, Refusal(.noLibrary)) }
        guard let address = dlsym(handle, "san_startup_ex") else {
            dlclose(handle)
            return (nil, Refusal(.noStartup))
        }
        return (unsafeBitCast(address, to: Symbol.self), nil)
    }

    /// Starts the provider; nil, or why it is refused. One that was started and is refused has been cleaned up.
    public mutating func start(_ startup: Startup, upcalls: san_upcalls, guid: san_guid?) -> Refusal? {
        var (tcp, upcalls) = (Self.tcp, upcalls)
        let result = startup(UInt32(SAN_ABI_VERSION), &tcp, &upcalls, &functions, &info)
        guard result == 0 else {
            return Refusal(result == -ENOTSUP ? .wrongVersion : .notStarted, number: -result)
        }
        let refusal = examine(guid)
        if refusal != nil, functions.cleanup != nil { _ = functions.cleanup() }
        return refusal
    }

    private mutating func examine(_ guid: san_guid?) -> Refusal? {
        guard functions.size >= UInt64(MemoryLayout<san_functions>.size) else { return Refusal(.shortTable) }
        if let missing = missingFunction { return Refusal(.missingFunction, what: missing) }
        if var guid {
            let isSame = withUnsafeBytes(of: &info.guid) { memcmp($0.baseAddress!, &guid, $0.count) == 0 }
            guard isSame else { return Refusal(.otherProvider) }
        }
        var answer = extensionAnswer(SAN_DIRECT_MEMORY, &direct)
        guard answer == 0 else { return Refusal(.missingFunction, what: "SAN_DIRECT_MEMORY", number: -answer) }
        // The last entry, `push`, came after the first version.
        let least = MemoryLayout<san_direct_memory>.size - MemoryLayout<Int>.size
        guard direct.size >= UInt64(least) else { return Refusal(.shortTable, what: "SAN_DIRECT_MEMORY") }
        if direct.size < UInt64(MemoryLayout<san_direct_memory>.size) { direct.push = nil }
        if let missing = missingDirectFunction { return Refusal(.missingFunction, what: missing) }
        // An optional function is there or answers EOPNOTSUPP; what nobody knows answers EINVAL (seed 2).
        var other: UInt64 = 0
        answer = extensionAnswer(SAN_RDMA_READ, &other)
        guard answer == 0 || answer == -EOPNOTSUPP else {
            return Refusal(.badAnswer, what: "SAN_RDMA_READ", number: -answer)
        }
        return nil
    }

    /// What the provider answers when it is asked for one extension function.
    public func extensionAnswer<T>(_ guid: san_guid, _ out: inout T) -> CInt {
        var guid = guid
        return functions.ioctl(
            0, UInt32(SAN_IOCTL_GET_EXTENSION), &guid, MemoryLayout<san_guid>.size, &out, MemoryLayout<T>.size)
    }

    private var missingFunction: StaticString? {
        if functions.cleanup == nil { return "cleanup" }
        if functions.socket == nil { return "socket" }
        if functions.bind == nil { return "bind" }
        if functions.set_option == nil { return "set_option" }
        if functions.listen == nil { return "listen" }
        if functions.connect == nil { return "connect" }
        if functions.accept == nil { return "accept" }
        if functions.event_descriptor == nil { return "event_descriptor" }
        if functions.peer == nil { return "peer" }
        if functions.send == nil { return "send" }
        if functions.recv == nil { return "recv" }
        if functions.ioctl == nil { return "ioctl" }
        if functions.duplicate == nil { return "duplicate" }
        if functions.adopt == nil { return "adopt" }
        return functions.close == nil ? "close" : nil
    }

    private var missingDirectFunction: StaticString? {
        if direct.expose == nil { return "expose" }
        if direct.map == nil { return "map" }
        if direct.unmap == nil { return "unmap" }
        if direct.ring_doorbell == nil { return "ring_doorbell" }
        if direct.wait_doorbell == nil { return "wait_doorbell" }
        if direct.interrupt == nil { return "interrupt" }
        if direct.silence_doorbell == nil { return "silence_doorbell" }
        return direct.finish == nil ? "finish" : nil
    }
}
