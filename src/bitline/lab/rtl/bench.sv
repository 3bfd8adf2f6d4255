// The board and the model of its columns: whoever drives the pins, testbench.sv or cocotb, is the host.
`include "records.svh"

module bench #(
    parameter int ROWS = 16,
    parameter int COLUMNS = 24,
    parameter int LANES = 24,
    parameter int PASSES = 3,
    parameter int MOST = 4096,
    parameter int IDENTITY_BYTES = 80
) (
    input  logic       clk,
    input  logic       reset,
    input  logic [7:0] rx_data,
    input  logic       rx_valid,
    output logic       rx_ready,
    output logic [7:0] tx_data,
    output logic       tx_valid,
    input  logic       tx_ready
);
    cell_t cell_port;
    logic [ROWS-1:0] word_lines;
    logic [15:0] lane, code;
    board #(
        .ROWS(ROWS), .COLUMNS(COLUMNS), .LANES(LANES), .PASSES(PASSES), .MOST(MOST), .IDENTITY_BYTES(IDENTITY_BYTES)
    ) dut (.*);
    analog_columns #(.ROWS(ROWS), .COLUMNS(COLUMNS), .LANES(LANES)) columns (.*);
endmodule
