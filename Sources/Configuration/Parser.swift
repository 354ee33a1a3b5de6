import Libc

/// What was expected where a line cannot be understood.
public enum Expected: UInt32 {
    case statement, equals, knob, number, smallerNumber, endOfLine, condition, program, role, address, prefix, port,
        text

    public var words: StaticString {
        switch self {
        case .statement: "`NAME = VALUE`, `allow ...` or `deny ...`"
        case .equals: "`=` after the name of a setting"
        case .knob: "a setting that there is (`sanswitch config --explain` lists them)"
        case .number: "a decimal number"
        case .smallerNumber: "a smaller number (`sanswitch config --explain` has the most it can be)"
        case .endOfLine: "nothing after the value"
        case .condition: "`program=NAME`, `role=connect|listen`, `address=ADDRESS[/BITS]` or `port=N[-M]`, each once"
        case .program: "the name of a program (`*` and `?` as in a shell)"
        case .role: "`connect` or `listen`"
        case .address: "an IPv4 or IPv6 address"
        case .prefix: "a prefix length: at most 32 for IPv4, 128 for IPv6"
        case .port: "a port from 1 to 65535, or two with `-` between, the smaller one first"
        case .text: "text: there is a zero byte"
        }
    }
}

/// One line that says something.
public enum Statement {
    case knob(Knob, UInt64)
    /// `program` is empty where the rule is for all.
    case rule(Rule, program: UnsafeRawBufferPointer)
    case wrong(Expected)
}

/// Reads a configuration line by line, in place: it allocates nothing, and what it yields points into the text.
public struct Parser {
    /// The most that a file may hold.
    public static let limit = 64 << 10
    /// Rules that one program keeps.
    public static let ruleLimit = 256

    private let text: UnsafeRawBufferPointer
    private var position = 0
    /// Of the last statement, from 1.
    public private(set) var line = 0
    public private(set) var lineText = UnsafeRawBufferPointer(start: nil, count: 0)

    public init(_ text: UnsafeRawBufferPointer) { self.text = text }

    /// The next statement; nil at the end. After `.wrong` comes the next line.
    public mutating func next() -> Statement? {
        while position < text.count {
            var end = position
            while end < text.count, text[end] != 0x0a { end &+= 1 }
            lineText = UnsafeRawBufferPointer(rebasing: text[position..<end])
            position = end &+ 1
            line &+= 1
            var words = Words(lineText)
            guard let first = words.next() else { continue }
            return Self.statement(first, &words)
        }
        return nil
    }

    private static func statement(_ first: UnsafeRawBufferPointer, _ words: inout Words) -> Statement {
        if words.hasZero { return .wrong(.text) }
        if first.equals("allow") { return rule(true, &words) }
        if first.equals("deny") { return rule(false, &words) }
        return setting(first, &words)
    }

    /// `name=value`, with or without blanks around the `=`.
    private static func setting(_ first: UnsafeRawBufferPointer, _ words: inout Words) -> Statement {
        let (name, rest) = first.split(at: 0x3d)
        guard name.count > 0 else { return .wrong(.statement) }
        guard let knob = Knob(named: name) else { return .wrong(.knob) }
        var value = rest ?? UnsafeRawBufferPointer(start: nil, count: 0)
        if rest == nil {
            guard let sign = words.next(), sign.count > 0, sign[0] == 0x3d else { return .wrong(.equals) }
            value = UnsafeRawBufferPointer(rebasing: sign[1...])
        }
        if value.count == 0 {
            guard let next = words.next() else { return .wrong(.number) }
            value = next
        }
        guard let number = value.decimal else { return .wrong(.number) }
        guard number <= knob.most else { return .wrong(.smallerNumber) }
        return words.next() == nil ? .knob(knob, number) : .wrong(.endOfLine)
    }

    private static func rule(_ isAllowed: Bool, _ words: inout Words) -> Statement {
        var rule = Rule(isAllowed: isAllowed)
        var program = UnsafeRawBufferPointer(start: nil, count: 0)
        var seen: UInt32 = 0
        while let word = words.next() {
            let (key, rest) = word.split(at: 0x3d)
            guard let value = rest else { return .wrong(.condition) }
            let bit: UInt32
            if key.equals("program") {
                guard value.count > 0 else { return .wrong(.program) }
                program = value
                bit = 1
            } else if key.equals("role") {
                guard value.equals("connect") || value.equals("listen") else { return .wrong(.role) }
                rule.role = value.equals("connect") ? .connect : .listen
                bit = 2
            } else if key.equals("address") {
                if let wrong = rule.setNetwork(value) { return .wrong(wrong) }
                bit = 4
            } else if key.equals("port") {
                guard rule.setPorts(value) else { return .wrong(.port) }
                bit = 8
            } else {
                return .wrong(.condition)
            }
            guard seen & bit == 0 else { return .wrong(.condition) }
            seen |= bit
        }
        return .rule(rule, program: program)
    }
}

extension Rule {
    /// `ADDRESS[/BITS]`; what was expected when it is none.
    mutating func setNetwork(_ value: UnsafeRawBufferPointer) -> Expected? {
        let (text, length) = value.split(at: 0x2f)
        guard let address = SocketAddress(text: text) else { return .address }
        network = address
        let most: UInt64 = address.isIPv4 ? 32 : 128
        var count = most
        if let length {
            guard let number = length.decimal, number <= most else { return .prefix }
            count = number
        }
        // IPv4 addresses are held as ::ffff:a.b.c.d.
        bits = UInt32(truncatingIfNeeded: count &+ (address.isIPv4 ? 96 : 0))
        return nil
    }

    mutating func setPorts(_ value: UnsafeRawBufferPointer) -> Bool {
        let (first, second) = value.split(at: 0x2d)
        guard let low = first.decimal, let high = (second ?? first).decimal, low >= 1, low <= high, high <= 65535 else {
            return false
        }
        (firstPort, lastPort) = (UInt16(truncatingIfNeeded: low), UInt16(truncatingIfNeeded: high))
        return true
    }
}

/// The words of a line, up to a `#`.
struct Words {
    private let line: UnsafeRawBufferPointer
    private var position = 0

    init(_ line: UnsafeRawBufferPointer) { self.line = line }

    var hasZero: Bool { line.contains(0) }

    private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 || byte == 0x0d }

    mutating func next() -> UnsafeRawBufferPointer? {
        while position < line.count, Self.isBlank(line[position]) { position &+= 1 }
        let start = position
        while position < line.count, !Self.isBlank(line[position]), line[position] != 0x23 { position &+= 1 }
        return position > start ? UnsafeRawBufferPointer(rebasing: line[start..<position]) : nil
    }
}

extension UnsafeRawBufferPointer {
    /// What is before and after the first `mark`; nil after it when there is none.
    func split(at mark: UInt8) -> (UnsafeRawBufferPointer, UnsafeRawBufferPointer?) {
        for index in 0..<count where self[index] == mark {
            return (Self(rebasing: self[..<index]), Self(rebasing: self[(index &+ 1)...]))
        }
        return (self, nil)
    }
}
