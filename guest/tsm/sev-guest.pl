# Asks /dev/sev-guest (Linux, drivers/virt/coco/sev-guest; include/uapi/linux/sev-guest.h) for an attestation report: Node cannot make ioctl calls.
# Runs with the perl that every Debian and Ubuntu has (perl-base), without any module but the two below.
#
#   perl sev-guest.pl DEVICE
#   stdin   72 bytes: REPORT_DATA (64), VMPL (u32), largest certificate table to take (u32, 0 for none); little endian
#   stdout  the report (1184 bytes), then the host's certificate table if there is one
#   stderr  one line about what failed
#   exit    0, or one of the codes below; sev-guest.ts knows them too
use strict;
use warnings;

use constant {
    EXIT_REQUEST  => 64,    # stdin or the arguments are not as above
    EXIT_DEVICE   => 65,    # the device cannot be opened
    EXIT_PLATFORM => 66,    # not a 64-bit little-endian machine: the structures below are of that one alone
    EXIT_REFUSED  => 70,    # the ioctl failed
    EXIT_BUSY     => 75,    # the host asks to come again later
    EXIT_STATUS   => 76,    # the firmware answered with a status other than 0
    EXIT_RESPONSE => 77,    # the answer is no report
};

# _IOWR('S', 0 and 2, struct snp_guest_request_ioctl), which has 32 bytes.
use constant { SNP_GET_REPORT => 0xC0205300, SNP_GET_EXT_REPORT => 0xC0205302 };
use constant { MESSAGE_VERSION => 1, RESPONSE_SIZE => 4000, REPORT_OFFSET => 0x20, REPORT_SIZE => 1184, PAGE => 4096 };

# Largest buffer for a table that Linux takes (SEV_FW_BLOB_MAX_SIZE); more is EINVAL, and so is what is no whole number of pages.
use constant MAX_TABLE => 0x4000;
use constant { EAGAIN => 11, EBUSY => 16 };
use constant { VMM_INVALID_LENGTH => 1, VMM_BUSY => 2 };

sub quit {
    my ($code, $message) = @_;
    print STDERR "$message\n";
    exit $code;
}

quit(EXIT_REQUEST, "expected the device as the only argument") if @ARGV != 1;
quit(EXIT_PLATFORM, "expected a 64-bit little-endian machine") if length(pack("P", $ARGV[0])) != 8 || pack("S", 1) ne pack("v", 1);
binmode STDIN;
binmode STDOUT;
my $input = "";
1 while length($input) <= 72 && sysread(STDIN, $input, 73 - length($input), length($input));
quit(EXIT_REQUEST, "stdin has not 72 bytes") if length($input) != 72;
my ($report_data, $vmpl, $table_limit) = unpack("a64 V V", $input);

# 2: O_RDWR.
sysopen(my $device, $ARGV[0], 2) or quit(EXIT_DEVICE, "$ARGV[0]: $!");

# A string of zeros with memory of its own: what perl shares between strings, the kernel must not write to.
sub buffer {
    my ($size) = @_;
    my $bytes = "\0" x $size;
    substr($bytes, 0, 1) = "\0";
    return $bytes;
}

# One ioctl. The strings behind the references stay where they are for as long as they are not assigned to; the kernel writes into them.
sub ask {
    my ($number, $request, $response) = @_;
    my $argument = pack("C x7 P P Q<", MESSAGE_VERSION, $$request, $$response, 0);
    my $done = ioctl($device, $number, $argument);
    my $errno = defined $done ? 0 : $! + 0;
    my ($firmware, $vmm) = unpack("x24 V V", $argument);
    return { errno => $errno, firmware => $firmware, vmm => $vmm };
}

sub busy {
    my ($outcome) = @_;
    return $outcome->{vmm} == VMM_BUSY || $outcome->{errno} == EBUSY || $outcome->{errno} == EAGAIN;
}

sub describe {
    my ($name, $outcome) = @_;
    local $! = $outcome->{errno};
    return sprintf("%s: errno %d (%s), firmware error 0x%x, VMM error 0x%x", $name, $outcome->{errno}, $!, $outcome->{firmware}, $outcome->{vmm});
}

# The report of a response {u32 status, u32 size, 24 reserved bytes, report}.
sub report_of {
    my ($response) = @_;
    my ($status, $size) = unpack("V V", $response);
    quit(EXIT_STATUS, sprintf("firmware status 0x%x", $status)) if $status != 0;
    quit(EXIT_RESPONSE, "the response states a report of $size bytes") if $size != REPORT_SIZE;
    return substr($response, REPORT_OFFSET, REPORT_SIZE);
}

sub answer {
    my ($report, $table) = @_;
    # No certificates: a table whose first entry, its terminator, is zero.
    $table = "" if substr($table, 0, 24) eq "\0" x 24;
    print STDOUT $report, $table or exit EXIT_REFUSED;
    close(STDOUT) or exit EXIT_REFUSED;
    exit 0;
}

# The largest buffer at once: what does not fit into it cannot be had from this kernel, so that there is nothing to ask again.
my $size = $table_limit < MAX_TABLE ? $table_limit - $table_limit % PAGE : MAX_TABLE;
if ($size > 0) {
    my ($table, $response) = (buffer($size), buffer(RESPONSE_SIZE));
    # {report request of 96 bytes, u64 address, u32 length}, padded to 112 bytes.
    my $request = pack("a64 V x28 P V x4", $report_data, $vmpl, $table, $size);
    my $outcome = ask(SNP_GET_EXT_REPORT, \$request, \$response);
    quit(EXIT_BUSY, describe("SNP_GET_EXT_REPORT", $outcome)) if busy($outcome);
    # A larger table is ENOSPC to kernels before 6.3 and EIO to those since; all of them say it in the VMM error. After that, and after any other failure, the report goes without.
    answer(report_of($response), $table) if $outcome->{errno} == 0 && $outcome->{vmm} != VMM_INVALID_LENGTH;
}

my $request = pack("a64 V x28", $report_data, $vmpl);
my $response = buffer(RESPONSE_SIZE);
my $outcome = ask(SNP_GET_REPORT, \$request, \$response);
quit(EXIT_BUSY, describe("SNP_GET_REPORT", $outcome)) if busy($outcome);
quit(EXIT_REFUSED, describe("SNP_GET_REPORT", $outcome)) if $outcome->{errno} != 0;
answer(report_of($response), "");
