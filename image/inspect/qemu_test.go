package inspect

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// The tests of this file hold the inspector to QEMU's own idea of the formats.

func qemuImg(t *testing.T, dir string, args ...string) {
	t.Helper()
	for tries := 1; ; tries++ {
		cmd := exec.Command("qemu-img", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		// To choose how hard a passphrase is to guess, QEMU measures the machine, and gives up where a busy one gave it
		// no time.
		if tries < 20 && err != nil && strings.Contains(string(out), "Unable to get accurate CPU usage") {
			continue
		}
		require.NoError(t, err, "%s", out)
		return
	}
}

func checkFile(t *testing.T, declared Format, path string) (Info, error) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	st, err := f.Stat()
	require.NoError(t, err)
	return Check(declared, f, st.Size(), Limits{})
}

func TestFilesOfQemuImg(t *testing.T) {
	testneed.Tools(t, "qemu-img")
	dir := t.TempDir()
	rows := []struct {
		name     string
		args     []string // of qemu-img create, before the file
		declared Format
		refusal  string // "": accepted
	}{
		{"raw", []string{"-f", "raw"}, Raw, ""},
		{"qcow2", []string{"-f", "qcow2"}, QCOW2, ""},
		{"version 2", []string{"-f", "qcow2", "-o", "compat=0.10"}, QCOW2, ""},
		{"clusters of 512 bytes", []string{"-f", "qcow2", "-o", "cluster_size=512"}, QCOW2, ""},
		{"clusters of 2 MiB", []string{"-f", "qcow2", "-o", "cluster_size=2M"}, QCOW2, ""},
		{"extended L2", []string{"-f", "qcow2", "-o", "extended_l2=on"}, QCOW2, ""},
		{"zstd", []string{"-f", "qcow2", "-o", "compression_type=zstd"}, QCOW2, ""},
		{"preallocated", []string{"-f", "qcow2", "-o", "preallocation=full"}, QCOW2, ""},
		{"lazy refcounts", []string{"-f", "qcow2", "-o", "lazy_refcounts=on"}, QCOW2, ""},
		{"backing file", []string{"-f", "qcow2", "-F", "raw", "-b", "/dev/null"}, QCOW2, "backing file"},
		{"data file", []string{"-f", "qcow2", "-o", "data_file=data.raw"}, QCOW2, "external data file"},
		{"raw data file", []string{"-f", "qcow2", "-o", "data_file=data2.raw,data_file_raw=on"}, QCOW2, "external data file"},
		{"encrypted", []string{"--object", "secret,id=s,data=x", "-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"},
			QCOW2, "encrypted"},
		{"qcow2 as raw", []string{"-f", "qcow2"}, Raw, "qcow2"},
		{"qcow", []string{"-f", "qcow"}, Raw, "qcow"},
		{"qed", []string{"-f", "qed"}, Raw, "qed"},
		{"vdi", []string{"-f", "vdi"}, Raw, "vdi"},
		{"vhd", []string{"-f", "vpc"}, Raw, "vhd"},
		{"fixed vhd", []string{"-f", "vpc", "-o", "subformat=fixed"}, Raw, "vhd"},
		{"vhdx", []string{"-f", "vhdx"}, Raw, "vhdx"},
		{"parallels", []string{"-f", "parallels"}, Raw, "parallels"},
		{"vmdk", []string{"-f", "vmdk"}, Raw, "vmdk"},
		{"stream vmdk", []string{"-f", "vmdk", "-o", "subformat=streamOptimized"}, Raw, "vmdk"},
		{"flat vmdk", []string{"-f", "vmdk", "-o", "subformat=monolithicFlat"}, Raw, "vmdk"},
		{"split vmdk", []string{"-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"}, Raw, "vmdk"},
	}
	for i, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			file := filepath.Join(dir, string(rune('a'+i))+".img")
			qemuImg(t, dir, append(append([]string{"create", "-q"}, row.args...), file, "8M")...)
			info, err := checkFile(t, row.declared, file)
			if row.refusal != "" {
				require.ErrorContains(t, err, row.refusal)
				return
			}
			require.NoError(t, err)
			require.Equal(t, Info{Format: row.declared, VirtualBytes: 8 << 20}, info)
		})
	}
}

func TestQCOW2OfAFilledDisk(t *testing.T) {
	testneed.Tools(t, "qemu-img")
	dir := t.TempDir()
	random := rand.NewChaCha8([32]byte{1})
	content := make([]byte, 20<<20)
	_, _ = random.Read(content)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "disk.raw"), content, 0o600))
	qemuImg(t, dir, "convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2")
	qemuImg(t, dir, "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "cluster_size=4k", "disk.raw", "packed.qcow2")
	for _, name := range []string{"disk.qcow2", "packed.qcow2"} {
		info, err := checkFile(t, QCOW2, filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, int64(20<<20), info.VirtualBytes)
	}

	qemuImg(t, dir, "snapshot", "-c", "before", "disk.qcow2")
	_, err := checkFile(t, QCOW2, filepath.Join(dir, "disk.qcow2"))
	require.ErrorContains(t, err, "1 internal snapshots")
	qemuImg(t, dir, "bitmap", "--add", "-f", "qcow2", "packed.qcow2", "changes")
	_, err = checkFile(t, QCOW2, filepath.Join(dir, "packed.qcow2"))
	require.ErrorContains(t, err, "bitmaps")
}

// Headers with random changes: whatever the inspector accepts must look self-contained to QEMU too, or not open at
// all.
func TestMutatedHeadersAgainstQemuImg(t *testing.T) {
	testneed.Tools(t, "qemu-img")
	dir := t.TempDir()
	file := filepath.Join(dir, "mutant.qcow2")
	random := rand.New(rand.NewPCG(2011, 10))
	accepted := 0
	for range 2000 {
		b := mutate(random, newImage())
		if _, err := check(QCOW2, b); err != nil {
			continue
		}
		if accepted++; accepted > 60 {
			break
		}
		require.NoError(t, os.WriteFile(file, b, 0o600))
		out, err := exec.Command("qemu-img", "info", "-f", "qcow2", "--output=json", file).Output()
		if err != nil {
			continue // QEMU is stricter about what harms only the image
		}
		var info map[string]any
		require.NoError(t, json.Unmarshal(out, &info))
		require.NotContains(t, info, "backing-filename")
		require.NotContains(t, info, "encrypted")
		require.NotContains(t, info, "snapshots")
		data := info["format-specific"].(map[string]any)["data"].(map[string]any)
		require.NotContains(t, data, "data-file")
	}
	require.Greater(t, accepted, 20, "the changes are too wild to prove anything")
}

// mutate makes one to three changes of the kind that an attacker or a broken disk makes.
func mutate(random *rand.Rand, b image) image {
	b = bytes.Clone(b)
	for range 1 + random.IntN(3) {
		switch random.IntN(4) {
		case 0:
			b[8+random.IntN(120)] = byte(1 << random.IntN(8))
		case 1:
			b.u32(4*random.IntN(32), uint32(1)<<random.IntN(32))
		case 2:
			kinds := []uint32{extBackingFormat, extBitmaps, extDataFile, extEncryption, 0x6803f857, 7}
			b.extension(112, kinds[random.IntN(len(kinds))], "0123456789abcdef"[:random.IntN(17)])
		default:
			b.u64(80+8*random.IntN(2), uint64(1)<<random.IntN(64))
		}
	}
	return b
}
