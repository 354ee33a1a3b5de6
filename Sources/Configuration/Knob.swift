/// Every setting there is: the one place that the library, `sanswitch config --explain`, sanswitch.conf(5) and
/// docs/configuration.md take it from (`make reference`).
public enum Knob: UInt32, CaseIterable {
    case afterCalls = 0
    case afterBytes = 1
    case spinMicroseconds = 2
    case isOn = 3
    case log = 4
    case file = 5
    case providers = 6
    case providerPath = 7

    /// In a file; nil where only the environment has it. A file may be another user's: it must not name files to write to.
    public var name: StaticString? {
        switch self {
        case .afterCalls: "after-calls"
        case .afterBytes: "after-bytes"
        case .spinMicroseconds: "spin-us"
        case .isOn, .log, .file, .providers, .providerPath: nil
        }
    }

    public var environment: StaticString {
        switch self {
        case .afterCalls: "SAN_AFTER_CALLS"
        case .afterBytes: "SAN_AFTER_BYTES"
        case .spinMicroseconds: "SAN_SPIN_US"
        case .isOn: "SAN"
        case .log: "SAN_LOG"
        case .file: "SAN_CONFIG"
        case .providers: "SAN_PROVIDERS"
        case .providerPath: "SAN_PROVIDER_PATH"
        }
    }

    public var unit: StaticString {
        switch self {
        case .afterCalls: "calls"
        case .afterBytes: "bytes"
        case .spinMicroseconds: "microseconds"
        case .isOn: "on, off"
        case .log: "debug, debug:FILE"
        case .file: "file"
        case .providers: "names"
        case .providerPath: "directories"
        }
    }

    /// Of a number: what it is when nobody says otherwise.
    public var standard: UInt64 {
        switch self {
        case .afterCalls: 8
        case .afterBytes: 64 << 10
        case .spinMicroseconds: 50
        case .isOn, .log, .file, .providers, .providerPath: 0
        }
    }

    public var isNumber: Bool { name != nil }

    /// Of a number: the most it can be.
    public var most: UInt64 {
        switch self {
        case .spinMicroseconds: 10_000
        default: 999_999_999_999_999_999
        }
    }

    /// The default in words, where it is no number.
    public var standardText: StaticString {
        switch self {
        case .isOn: "on"
        case .log: "silent"
        case .file: "the system's and the user's"
        case .providers: "all that are registered"
        case .providerPath: "/etc/sanswitch/providers.d"
        default: ""
        }
    }

    public var effect: StaticString {
        switch self {
        case .afterCalls:
            "A connection looks for a companion once it has made so many calls that move data. Shorter connections would pay for one and not gain from it."
        case .afterBytes:
            "A connection also looks for a companion once it has moved so many bytes, however few calls it took."
        case .spinMicroseconds:
            "The longest that a wait looks at the ring before it sleeps. More gives lower latency for more processor time; 0 never looks. Always 0 on a machine with one processor."
        case .isOn:
            "off: the library forwards every call and keeps no state. To leave single programs or ports on TCP, use rules."
        case .log:
            "One line for each decision of the switch: to standard error, or appended to FILE."
        case .providers:
            "The only service providers to use, in this order: names of registered ones, or paths of libraries, with commas between. Not for programs that gain privilege."
        case .providerPath:
            "Where providers are registered, with colons between. Not for programs that gain privilege."
        case .file:
            "Read this file instead of the system's and the user's; empty: read no file."
        }
    }

    /// The knob that a file calls `text`.
    init?(named text: UnsafeRawBufferPointer) {
        var value: UInt32 = 0
        while let knob = Knob(rawValue: value) {
            if let name = knob.name, text.equals(name) {
                self = knob
                return
            }
            value &+= 1
        }
        return nil
    }
}

extension UnsafeRawBufferPointer {
    func equals(_ text: StaticString) -> Bool {
        guard count == text.utf8CodeUnitCount else { return false }
        return text.withUTF8Buffer { other in
            for index in 0..<count where self[index] != other[index] { return false }
            return true
        }
    }

    /// A decimal number of at most 18 digits; nil for anything else.
    public var decimal: UInt64? {
        guard count > 0, count <= 18 else { return nil }
        var value: UInt64 = 0
        for byte in self {
            guard byte >= 0x30, byte <= 0x39 else { return nil }
            value = value &* 10 &+ UInt64(byte &- 0x30)
        }
        return value
    }
}
