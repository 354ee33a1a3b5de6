import Configuration
import Libc
import Testing

/// Statements of a text as one line each, with the line's number.
private func read(_ text: String) -> [String] {
    Array(text.utf8).withUnsafeBytes { bytes in
        var parser = Parser(bytes)
        var lines: [String] = []
        while let statement = parser.next() {
            switch statement {
            case .knob(let knob, let value): lines.append("\(parser.line) \(knob) \(value)")
            case .rule(let rule, let program):
                let role = rule.role.map { "\($0)" } ?? "any"
                lines.append(
                    "\(parser.line) \(rule.isAllowed ? "allow" : "deny") \(String(decoding: program, as: UTF8.self)) "
                        + "\(role) /\(rule.bits) \(rule.firstPort)-\(rule.lastPort)")
            case .wrong(let expected): lines.append("\(parser.line) wrong \(expected)")
            }
        }
        return lines
    }
}

private func address(_ text: String, port: UInt16 = 80) -> SocketAddress? {
    Array(text.utf8).withUnsafeBytes { SocketAddress(text: $0) }.map {
        SocketAddress(high: $0.high, low: $0.low, port: port)
    }
}

private func rule(_ text: String) throws -> Rule {
    try Array(text.utf8).withUnsafeBytes { bytes in
        var parser = Parser(bytes)
        guard case .rule(let rule, _)? = parser.next() else { throw Errno(22) }
        return rule
    }
}

@Test func settings_areReadWithAndWithoutBlanks() {
    let text = "# a comment\n\nspin-us = 20\nafter-calls=0 # behind\n\tafter-bytes =999\r\nspin-us= 7"
    #expect(read(text) == ["3 spinMicroseconds 20", "4 afterCalls 0", "5 afterBytes 999", "6 spinMicroseconds 7"])
}

@Test func rules_areReadWithTheirConditions() {
    let text = """
        allow program=redis-* role=listen port=6379
        deny role=connect address=10.0.0.0/8 port=5000-6000
        deny address=fd00::/8
        allow
        """
    #expect(
        read(text) == [
            "1 allow redis-* listen /0 6379-6379", "2 deny  connect /104 5000-6000", "3 deny  any /8 0-65535",
            "4 allow  any /0 0-65535",
        ])
}

@Test(arguments: [
    ("spin 5", "knob"), ("spin-us 5", "equals"), ("spin-us =", "number"), ("spin-us = -1", "number"),
    ("spin-us = 5 6", "endOfLine"), ("spin-us = 10001", "smallerNumber"), ("= 5", "statement"), ("SAN = off", "knob"),
    ("after-calls = 1234567890123456789", "number"), ("deny everything", "condition"), ("deny port", "condition"),
    ("deny port=0", "port"), ("deny port=9-8", "port"), ("deny port=65536", "port"), ("deny port=1-", "port"),
    ("deny port=1 port=2", "condition"), ("deny role=both", "role"), ("deny program=", "program"),
    ("deny address=10.0.0", "address"), ("deny address=10.0.0.256", "address"), ("deny address=::1::", "address"),
    ("deny address=1:2:3:4:5:6:7", "address"), ("deny address=:1:2:3:4:5:6:7", "address"),
    ("deny address=1:2:3:4:5:6:7:8:9", "address"), ("deny address=12345::", "address"), ("deny address=::g", "address"),
    ("deny address=10.0.0.0/33", "prefix"), ("deny address=::/129", "prefix"), ("deny address=10.0.0.0/", "prefix"),
    ("deny\0", "text"),
])
func wrongLines_sayWhatWasExpected(line: String, expected: String) {
    #expect(read("\n" + line + "\nspin-us=1") == ["2 wrong \(expected)", "3 spinMicroseconds 1"])
}

@Test(
    arguments: [
        ("127.0.0.1", 0, 0x0000_ffff_7f00_0001), ("::1", 0, 1), ("::", 0, 0),
        ("fe80::1:2", 0xfe80_0000_0000_0000, 0x1_0002), ("1:2:3:4:5:6:7:8", 0x1_0002_0003_0004, 0x5_0006_0007_0008),
        ("ABCD::", 0xabcd_0000_0000_0000 as UInt64, 0),
    ] as [(String, UInt64, UInt64)])
func addresses_areReadAsTheKernelHoldsThem(text: String, high: UInt64, low: UInt64) throws {
    let found = try #require(address(text))
    #expect(UInt64(bigEndian: found.high) == high && UInt64(bigEndian: found.low) == low)
}

@Test(arguments: [
    ("deny address=10.1.0.0/16", "10.1.2.3", true), ("deny address=10.1.0.0/16", "10.2.2.3", false),
    ("deny address=10.1.0.0/16", "::1", false), ("deny address=0.0.0.0/0", "10.1.2.3", true),
    ("deny address=0.0.0.0/0", "fd00::1", false), ("deny address=fd00::/8", "fdff::1", true),
    ("deny address=::1", "::1", true), ("deny address=::1", "::2", false), ("deny", "::2", true),
    ("deny address=fd00::1:0:0:0/80", "fd00::1:0:0:1", true), ("deny address=fd00::1:0:0:0/80", "fd00::2:0:0:1", false),
])
func rules_matchTheirNetwork(text: String, to: String, isMatch: Bool) throws {
    #expect(try rule(text).matches(.connect, #require(address(to))) == isMatch)
}

@Test func rules_matchRoleAndPort() throws {
    let only = try rule("deny role=listen port=80-90")
    let one = try #require(address("127.0.0.1", port: 80))
    #expect(only.matches(.listen, one) && !only.matches(.connect, one))
    let edges = try [79, 90, 91].map { try only.matches(.listen, #require(address("::1", port: $0))) }
    #expect(edges == [false, true, false])
}

@Test(arguments: [
    ("redis-server", "/usr/bin/redis-server", "redis-server", true), ("redis*", "/usr/bin/redis-check-rdb", "x", true),
    ("script.py", "/usr/bin/python3.11", "script.py", true), ("python3*", "/usr/bin/python3.11", "script.py", true),
    ("/usr/bin/*", "/usr/bin/python3.11", "x", true), ("/usr/sbin/*", "/usr/bin/python3.11", "x", false),
    ("*a*b", "/xaxaxb", "", true), ("*a*b", "/xaxax", "", false), ("n?inx", "/nginx", "", true), ("?", "/", "", false),
    ("redis", "/usr/bin/redis-server", "redis-server", false),
])
func programs_matchByPathOrName(pattern: String, path: String, name: String, isMatch: Bool) {
    let (pattern, path, name) = (Array(pattern.utf8), Array(path.utf8), Array(name.utf8))
    let found = pattern.withUnsafeBytes { a in
        path.withUnsafeBytes { b in name.withUnsafeBytes { c in Pattern.matches(a, path: b, name: c) } }
    }
    #expect(found == isMatch)
}
