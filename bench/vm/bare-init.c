/*
 * The least that a machine can boot to: prints a line and powers off. What the bench of the utility VM is compared with (bare-boot.ts).
 * Freestanding, for x86-64; compiled as guest/init is.
 */
__asm__(".text\n.globl _start\n_start:\n"
        "  mov $1, %eax\n  mov $1, %edi\n  lea line(%rip), %rsi\n  mov $20, %edx\n  syscall\n" /* write(1, line, 20) */
        "  mov $169, %eax\n  mov $0xfee1dead, %edi\n  mov $672274793, %esi\n  mov $0x4321fedc, %edx\n  syscall\n" /* reboot(POWER_OFF) */
        "  ud2\n");
const char line[] = "sealpod-bare: is up\n";
