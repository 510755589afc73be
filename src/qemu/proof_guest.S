/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The test guest that proves an accelerator: the last 4 KiB of a 64 KiB firmware image.
 *
 * A processor starts at the image's last 16 bytes in 16-bit mode. The guest takes it the way every
 * operating system does: 32-bit protected mode, page tables, paging, 64-bit mode. There it stores
 * two 64-bit numbers in memory, reads them back, multiplies them to 128 bits and sends the
 * product, 16 bytes, least significant first, to the first serial port. Only a machine that
 * really runs 64-bit code can give that answer. Then it halts for good.
 *
 * Whatever goes wrong is a triple fault (there is no interrupt table), which ends a QEMU that was
 * started with -no-reboot.
 *
 * Memory: the image's last 128 KiB also appear right below 1 MiB, so this page is at 0xff000,
 * within reach of 16-bit code, and one 2 MiB page maps all that the guest needs.
 *
 *     0x1000   page map (1 entry)     0x2000   page directory pointers (1 entry)
 *     0x3000   page directory (1)     0x4000   the two factors      0x7000   stack (unused)
 */
    .set PAGE, 0xff000          /* where this page is in the guest's memory */
    .set CODE32, 0x08           /* segment selectors, see gdt below */
    .set DATA, 0x10
    .set CODE64, 0x18
    .set COM1, 0x3f8

    .section .rodata
    .balign 16
    .globl gw_proof_guest
    .hidden gw_proof_guest
    .type gw_proof_guest, @object
    .size gw_proof_guest, 4096
gw_proof_guest:

    .code16
start16:
    cli
    cld
    lgdtl %cs:(gdt_register - gw_proof_guest + 0xf000)
    movl %cr0, %eax
    orl $1, %eax                /* CR0.PE: protected mode */
    movl %eax, %cr0
    ljmpl $CODE32, $(start32 - gw_proof_guest + PAGE)

    .code32
start32:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x1000, %edi          /* three empty page tables */
    xorl %eax, %eax
    movl $(3 * 1024), %ecx
    rep stosl
    movl $0x2003, 0x1000        /* present, writable */
    movl $0x3003, 0x2000
    movl $0x83, 0x3000          /* present, writable, 2 MiB: 0 .. 2 MiB as they are */
    movl $0x1000, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax             /* CR4.PAE */
    movl %eax, %cr4
    movl $0xc0000080, %ecx      /* EFER.LME: long mode once paging is on */
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax       /* CR0.PG */
    movl %eax, %cr0
    ljmpl $CODE64, $(start64 - gw_proof_guest + PAGE)

    .code64
start64:
    movabsq $0x9e3779b97f4a7c15, %r8 /* GW_PROOF_FACTOR_A in accel.c */
    movabsq $0xc2b2ae3d27d4eb4f, %r9 /* GW_PROOF_FACTOR_B */
    movq %r8, 0x4000
    movq %r9, 0x4008
    movq 0x4000, %rax
    mulq 0x4008                 /* rdx:rax */
    movq %rax, %r10
    movq %rdx, %r11
    movl $2, %r12d              /* two words of eight bytes */
next_word:
    movl $8, %ecx
next_byte:
    movw $(COM1 + 5), %dx       /* line status: wait for the transmitter to be empty */
wait_empty:
    inb %dx, %al
    testb $0x20, %al
    jz wait_empty
    movw $COM1, %dx
    movq %r10, %rax
    outb %al, %dx
    shrq $8, %r10
    decl %ecx
    jnz next_byte
    movq %r11, %r10
    decl %r12d
    jnz next_word
halt:
    hlt
    jmp halt

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff    /* 0x08: 32-bit code, 0 .. 4 GiB */
    .quad 0x00cf92000000ffff    /* 0x10: data, 0 .. 4 GiB */
    .quad 0x00af9a000000ffff    /* 0x18: 64-bit code */
gdt_register:
    .word gdt_register - gdt - 1
    .long gdt - gw_proof_guest + PAGE

    .org 0xff0
    .code16
    .byte 0xe9                  /* jmp start16: here the processor starts, at 0xfffffff0 */
    .word start16 - gw_proof_guest - 0xff3
    .org 0x1000

    .section .note.GNU-stack, "", @progbits
