# Plays the kernel behind ioctl for sev-guest.e2e.ts: checks the numbers and structures, and writes its answer through the pointers, as the kernel does.
#
#   perl -I testdata -MFakeIoctl=JOURNAL,CASE,KERNEL sev-guest.pl /dev/null
#
# KERNEL is 5.19 or 6.3: to a buffer that is too small the former says ENOSPC and the latter EIO, and "silent" succeeds but for the VMM error; all of them set VMM error 1 and the length
# that is needed, and refuse a buffer above 16 KiB or of parts of pages with EINVAL.
#
# Each call is one line in the file JOURNAL: number, and in hex the 32 bytes of the argument without its pointers, and the request.
package FakeIoctl;
use strict;
use warnings;

my ($journal, $case, $kernel, $calls) = ("", "", "", 0);
my %too_small = ("5.19" => 28, "6.3" => 5, silent => 0);

sub import {
    (undef, $journal, $case, $kernel) = @_;
    die "kernel $kernel" if !exists $too_small{$kernel};
    *CORE::GLOBAL::ioctl = \&answer;
}

# Copies bytes to an address: read(2) from a pipe takes one.
sub poke {
    my ($address, $bytes) = @_;
    while (length $bytes) {
        my $part = substr($bytes, 0, 4096, "");
        pipe(my $read, my $write) or die "pipe: $!";
        syswrite($write, $part) == length $part or die "write: $!";
        # 0: SYS_read on x86-64.
        syscall(0, fileno($read), $address, length $part) == length $part or die "read: $!";
        $address += length $part;
    }
}

sub peek {
    my ($address, $length) = @_;
    return unpack("P$length", pack("Q<", $address));
}

sub fail {
    my ($errno, $firmware, $vmm) = @_[1, 2, 3];
    $_[0] = substr($_[0], 0, 24) . pack("V V", $firmware, $vmm);
    $! = $errno;
    return $errno == 0 ? "0 but true" : undef;
}

# Bytes that say where they came from: the report has REPORT_DATA in its place, and its first byte is the number of the call.
sub report {
    my ($request) = @_;
    return pack("C x79", $calls) . substr($request, 0, 64) . ("\xa5" x (1184 - 144));
}

sub response {
    my ($status, $size, $report) = @_;
    return pack("V V x24", $status, $size) . $report;
}

sub answer {
    my ($handle, $number) = @_;
    $calls++;
    die "the argument has " . length($_[2]) . " bytes" if length $_[2] != 32;
    my ($version, $padding, $request_at, $response_at, $exit) = unpack("C a7 Q< Q< Q<", $_[2]);
    my $extended = $number == 0xC0205302;
    my $request = peek($request_at, $extended ? 112 : 96);
    open(my $out, ">>", $journal) or die "journal: $!";
    # The address of the table is another each time: zero or not is what there is to say about it.
    my ($head, $table_at, $tail) = $extended ? unpack("a96 Q< a8", $request) : ($request, 0, "");
    printf $out "%08x %02x%s %x %s %s %s\n", $number, $version, unpack("H*", $padding), $exit, unpack("H*", $head), $table_at ? "table" : "-", unpack("H*", $tail);
    close $out;
    my $table_size = $extended ? unpack("V", $tail) : 0;
    my $first_table = pack("H*", "63da758de6644564adc5f4b93be8accd") . pack("V V", 48, 3) . "\0" x 24 . "abc";

    # SEV_FW_BLOB_MAX_SIZE, and whole pages.
    return fail($_[2], 22, 0, 0) if $extended && ($table_size > 0x4000 || $table_size % 0x1000);
    my %needed = (larger => 0x5000, huge => 0xfffff000, crooked => 0x4001);
    if ($extended && exists $needed{$case}) {
        poke($request_at + 104, pack("V", $needed{$case}));
        # A report without the table was made on the way, and is handed out if nothing else is said.
        poke($response_at, response(0, 1184, report($request)));
        return fail($_[2], $too_small{$kernel}, 0, 1);
    }
    if ($case eq "certificates") {
        poke($table_at, $first_table);
    } elsif ($case eq "plain" && $extended) {
        return fail($_[2], 25, 0, 0);
    } elsif ($case eq "busy") {
        return fail($_[2], 11, 0, 2);
    } elsif ($case eq "busy-plain") {
        return $extended ? fail($_[2], 5, 0, 0xff) : fail($_[2], 16, 0, 0);
    } elsif ($case eq "firmware") {
        return fail($_[2], 5, 0x17, 0);
    } elsif ($case eq "status") {
        poke($response_at, response(0x16, 0, ""));
        return "0 but true";
    } elsif ($case eq "size") {
        poke($response_at, response(0, 1185, report($request)));
        return "0 but true";
    } elsif ($case eq "other-data") {
        poke($response_at, response(0, 1184, report("\x99" x 64)));
        return "0 but true";
    } elsif ($case eq "endless") {
        sleep 1 while 1;
    } elsif ($case eq "noisy") {
        print STDOUT "x" x 100_000;
        print STDERR "y" x 100_000;
    }
    poke($response_at, response(0, 1184, report($request)));
    return "0 but true";
}

1;
