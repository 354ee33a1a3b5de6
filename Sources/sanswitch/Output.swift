import CLibc

/// A message to the person at the terminal; standard output belongs to results.
func warn(_ message: String) {
    let line = Array("sanswitch: \(message)\n".utf8)
    _ = write(2, line, line.count)
}

/// errno in words.
func describe(_ code: CInt) -> String { String(cString: strerror(code)) }

/// Text from outside (a program's name, a variable) made fit for a terminal: no control characters.
func printable(_ text: String) -> String {
    String(
        String.UnicodeScalarView(
            text.unicodeScalars.map { $0.value < 0x20 || (0x7f...0x9f).contains($0.value) ? "?" : $0 }))
}

/// Rows under a head, columns padded to their widest entry, numbers to the right.
struct Table {
    struct Column {
        let title: String
        var isNumber = false
    }

    let columns: [Column]
    private var rows: [[String]] = []

    init(_ columns: [Column]) { self.columns = columns }

    mutating func add(_ row: [String]) { rows.append(row) }

    func lines() -> [String] {
        let all = [columns.map(\.title)] + rows
        let widths = columns.indices.map { column in all.map { $0[column].count }.max() ?? 0 }
        return all.map { row in
            var line = ""
            for (column, text) in row.enumerated() {
                let padding = String(repeating: " ", count: widths[column] - text.count)
                line += (columns[column].isNumber ? padding + text : text + padding) + "  "
            }
            return String(line.reversed().drop { $0 == " " }.reversed())
        }
    }
}
