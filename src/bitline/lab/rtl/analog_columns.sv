// Behavioural model of the analog side: binary cells, and for each lane a table of the code for each sum.
// Not for synthesis: on a board this is the macro.
`include "records.svh"

module analog_columns #(
    parameter int ROWS = 16,
    parameter int COLUMNS = 24,
    parameter int LANES = 24,
    parameter TABLE = "table.hex"  // LANES · (ROWS + 1) codes: lane after lane, sum 0 first
) (
    input  logic            clk,
    input  cell_t   cell_port,
    input  logic [ROWS-1:0] word_lines,
    input  logic [15:0]     lane,
    output logic [15:0]     code
);
    logic [COLUMNS-1:0] cells [ROWS];
    logic [15:0] codes [LANES * (ROWS + 1)];
    logic [31:0] sum;

    initial begin
        for (int r = 0; r < ROWS; r++) cells[r] = '0;
        $readmemh(TABLE, codes);
    end

    always_ff @(posedge clk) if (cell_port.write) cells[cell_port.row][cell_port.column] <= cell_port.level;

    always_comb begin
        sum = 0;
        for (int r = 0; r < ROWS; r++) sum = sum + {31'b0, word_lines[r] & cells[r][lane]};
        code = codes[lane * (ROWS + 1) + sum];
    end
endmodule
