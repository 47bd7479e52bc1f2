package machines

import (
	"os"
	"strings"
	"testing"
)

// block is one of the document's blocks of commands, or of a file.
type block struct {
	heading string
	text    string
	used    bool
}

// document is what an operator has before them.
type document struct {
	blocks []*block
	rows   [][]string // of all tables, cell by cell
}

// readDocument takes indented and fenced blocks, and tables, out of a Markdown file.
func readDocument(t *testing.T, file string) *document {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := &document{}
	var current *block
	heading, fenced := "", false
	for line := range strings.Lines(string(data)) {
		bare := strings.TrimSpace(line)
		indented, isIndented := strings.CutPrefix(line, "    ")
		switch {
		case strings.HasPrefix(line, "```"):
			if fenced = !fenced; !fenced {
				current = nil
			}
		case !fenced && bare != "" && !isIndented:
			current = nil
			if strings.HasPrefix(line, "#") {
				heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
			}
			if strings.HasPrefix(line, "|") {
				d.rows = append(d.rows, strings.Split(strings.Trim(bare, "|"), " | "))
			}
		case fenced || isIndented || current != nil:
			if current == nil {
				current = &block{heading: heading}
				d.blocks = append(d.blocks, current)
			}
			if !fenced {
				line = indented
			}
			if bare == "" {
				line = "\n"
			}
			current.text += line
		}
	}
	return d
}

// block is the one below a heading that holds a text.
func (d *document) block(t *testing.T, heading, holds string) string {
	t.Helper()
	var found *block
	for _, b := range d.blocks {
		if b.heading == heading && strings.Contains(b.text, holds) {
			if found != nil {
				t.Fatalf("%q has several blocks with %q", heading, holds)
			}
			found = b
		}
	}
	if found == nil {
		t.Fatalf("%q has no block with %q", heading, holds)
	}
	found.used = true
	return found.text
}

// command is what a table's last column says to type for what the first names.
func (d *document) command(t *testing.T, what string) string {
	t.Helper()
	for _, row := range d.rows {
		if strings.HasPrefix(strings.TrimSpace(row[0]), what) && len(row) == 3 {
			if _, rest, ok := strings.Cut(row[2], "`"); ok {
				command, _, _ := strings.Cut(rest, "`")
				return command
			}
		}
	}
	t.Fatalf("no table says how to %s", what)
	return ""
}

// unused are the blocks below some headings that nobody has followed.
func (d *document) unused(headings ...string) (texts []string) {
	for _, b := range d.blocks {
		for _, h := range headings {
			if b.heading == h && !b.used {
				texts = append(texts, b.text)
			}
		}
	}
	return texts
}
